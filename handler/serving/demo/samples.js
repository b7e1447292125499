import { at, endpoint, link, make } from "./page.js";

/** Shows the samples; `pick` gets a sample's file and whose it is. */
export function showSamples(pick) {
  at("samples").append(...endpoint.samples.map((sample) => {
    const src = `data:image/jpeg;base64,${sample.base64}`;
    const image = make("img", { src, alt: sample.title, width: 120, height: 120 });
    const button = make("button", { type: "button", title: `${sample.title}, by ${sample.author}` }, image);
    button.addEventListener("click", () => pick(fileOf(sample), sample));
    return make("li", {}, button);
  }));
  const credits = endpoint.samples.map((sample) => credit(sample, sample.title.toLowerCase()));
  at("credits").append("Samples, made smaller: ", ...credits.flatMap((one, i) => (i ? ["; ", ...one] : one)), ".");
}

/** Who a photo is by, and what allows its use. */
export function credit({ source, author, licence, licence_url }, title = "Photo") {
  return [link(title, source), ` by ${author}, `, link(licence, licence_url)];
}

/** As an uploaded one. A policy that lets the page connect to its server alone forbids to fetch a data URL. */
function fileOf({ file, base64 }) {
  const bytes = Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
  return new File([bytes], file, { type: "image/jpeg" });
}
