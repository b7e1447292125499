import { at, make } from "./page.js";

/** Lists the captions of an answer where there are several; `choose` is called with the one to be shown. */
export function listAlternatives(captions, choose) {
  const root = at("alternatives");
  root.hidden = captions.length < 2;
  const rows = root.hidden ? [] : captions.map((caption, i) => row(caption, i === 0, choose));
  root.replaceChildren(root.querySelector("legend"), ...rows);
}

function row(caption, checked, choose) {
  const radio = make("input", { type: "radio", name: "alternative", checked });
  radio.addEventListener("change", () => choose(caption));
  const title = "Mean log-probability of its words";
  const score = make("span", { className: "score", title }, caption.score.toFixed(2).replace("-", "−"));
  return make("label", {}, radio, make("span", {}, caption.caption), score);
}
