import { listAlternatives } from "./alternatives.js";
import { Trouble, explain } from "./api.js";
import { showCard } from "./card.js";
import { copies, curlCommand } from "./copy.js";
import { Heat } from "./heat.js";
import { buildOptions, optionFields, showSeed } from "./options.js";
import { announce, at, endpoint, make } from "./page.js";
import { readPicture } from "./picture.js";
import { credit } from "./samples.js";
import { listen } from "./sources.js";
import { Words } from "./words.js";

const sheet = matchMedia("(max-width: 63.99rem)"); // where the options lie over the page
const main = document.querySelector("main");
const heat = new Heat(at("heat"));
const words = new Words(heat);
let wanted = null; // the newest picture, or a promise of it while it is read
let picture = null; // the one that is shown
let asked = ""; // the options that were asked for last
let shown = null; // the picture's answer: {answer, text, seconds, fields}
let caption = null; // the one of its captions that is shown
let flight = new AbortController(); // of the newest work: what older work brings is not wanted any more

const open = (file, sample = null) => look(readPicture(file).then((next) => ({ ...next, sample })));

const optionsChanged = () => wanted && JSON.stringify(optionFields()) !== asked && look(wanted);

/** Captions a picture, and drops what was under way, so that an answer that comes late overwrites nothing. */
async function look(next) {
  wanted = next;
  flight.abort();
  const { signal } = (flight = new AbortController());
  at("trouble").replaceChildren();
  main.dataset.busy = "";
  announce("Looking at the picture…");
  try {
    const subject = await next;
    signal.throwIfAborted();
    // What the browser can't decode is shown once the server could; until then what is shown stays.
    if (subject !== picture && subject.width) showPicture(subject);
    const fields = optionFields();
    asked = JSON.stringify(fields);
    const found = await explain(subject.blob, fields, signal);
    if (subject !== picture) showPicture(subject, found.answer.explanation.picture);
    showAnswer({ ...found, fields });
  } catch (error) {
    if (signal.aborted) return;
    wanted = picture;
    complain(error, () => look(next));
  }
  delete main.dataset.busy;
}

function showPicture(next, size = next) {
  URL.revokeObjectURL(at("picture").src);
  picture = next;
  shown = caption = null;
  main.dataset.state = "shown";
  at("result").hidden = false;
  const visible = next.width > 0;
  at("picture").hidden = !visible;
  at("blank").hidden = visible;
  if (visible) at("picture").src = URL.createObjectURL(next.blob);
  at("picture").alt = `The picture: ${next.sample?.title ?? next.name}`;
  at("frame").style.setProperty("--width", size.width);
  at("frame").style.setProperty("--height", size.height);
  at("credit").replaceChildren(...(next.sample ? credit(next.sample) : []));
  heat.clear();
  showCaption(null);
  listAlternatives([]);
  at("facts").replaceChildren();
}

function showAnswer(next) {
  shown = next;
  const { answer, seconds } = next;
  listAlternatives(answer.captions, showCaption);
  showCaption(answer.captions[0]);
  const facts = [`${seconds.toFixed(seconds < 10 ? 2 : 0)} s`];
  if (picture.shrunk) facts.push(`sent at ${picture.width} × ${picture.height}`);
  if (answer.seed !== undefined) facts.push(`seed ${answer.seed}`);
  at("facts").replaceChildren(...facts.map((fact) => make("span", {}, fact)));
  showSeed(answer.seed);
  announce(`Caption: ${answer.caption}`);
}

function showCaption(next) {
  caption = next;
  words.show(next, shown?.answer.explanation);
  at("waiting").hidden = next !== null;
  at("sentence").textContent = next ? next.caption : "";
  for (const id of ["copy-caption", "copy-json", "copy-curl"]) at(id).disabled = next === null;
}

function complain(error, again) {
  const known = error instanceof Trouble;
  if (!known) console.error(error);
  at("waiting").hidden = true;
  announce("");
  const retry = make("button", { type: "button" }, "Try again");
  retry.addEventListener("click", again);
  const text = known ? error.message : "Something went wrong in this page.";
  at("trouble").replaceChildren(make("p", {}, text), ...(!known || error.passing ? [retry] : []));
}

/** What curl asks for: the same draws, too, and of a sample the file in the project. */
function command() {
  const { answer, fields } = shown;
  const file = picture.sample ? `handler/serving/demo/samples/${picture.name}` : picture.name;
  return curlCommand(file, answer.seed === undefined ? fields : { ...fields, seed: answer.seed });
}

function toggleOptions(visible) {
  at("options").hidden = !visible;
  at("open-options").setAttribute("aria-expanded", String(visible));
  (visible ? at("options-heading") : at("open-options")).focus();
  if (visible && sheet.matches) at("result").scrollIntoView();
}

document.title = at("name").textContent = endpoint.model.name;
at("open-options").addEventListener("click", () => toggleOptions(at("options").hidden));
at("close-options").addEventListener("click", () => toggleOptions(false));
at("options").addEventListener("keydown", (event) => event.key === "Escape" && toggleOptions(false));
copies(at("copy-caption"), () => caption.caption);
copies(at("copy-json"), () => shown.text);
copies(at("copy-curl"), command);
showCard();
buildOptions(optionsChanged);
listen(open);
