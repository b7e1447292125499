import { at, endpoint, make } from "./page.js";

const GROUPS = {
  Search: ["beam_size", "length_penalty", "num_captions"],
  Length: ["min_length", "max_length", "no_repeat_ngram"],
  Chance: ["temperature", "top_p", "seed"],
};
const LABELS = {
  min_length: "Fewest words",
  max_length: "Most words",
  num_captions: "Captions",
  no_repeat_ngram: "No repeated n-gram",
  top_p: "Top p",
};
const PAUSE = 350; // milliseconds without a change
const known = new Map(endpoint.options.map((one) => [one.name, { ...one, default: String(one.default ?? "") }]));
const values = new Map(); // as text; all of them, once the form is made
const controls = new Map();

/** Builds the form; `changed` is called once its controls have come to rest. */
export function buildOptions(changed) {
  const grouped = new Set(Object.values(GROUPS).flat());
  const others = [...known.keys()].filter((name) => !grouped.has(name));
  for (const [title, names] of Object.entries({ ...GROUPS, More: others })) {
    const present = names.filter((name) => known.has(name));
    if (present.length) at("fields").append(make("fieldset", {}, make("legend", {}, title), ...present.map(field)));
  }
  let timer;
  const tell = (pause) => {
    refresh();
    clearTimeout(timer);
    timer = setTimeout(changed, pause);
  };
  at("fields").addEventListener("input", ({ target }) => {
    set(target.name, target.value);
    agree(target.name);
    tell(PAUSE);
  });
  at("fields").addEventListener("submit", (event) => event.preventDefault());
  at("reset").addEventListener("click", () => {
    for (const [name, option] of known) set(name, option.default);
    tell(0);
    at("options-heading").focus();
  });
  refresh();
}

/** What to send: the options that differ from the defaults, and have a say. */
export function optionFields() {
  const said = new Map(values);
  if (!samples()) said.set("top_p", "1").set("seed", "");
  return Object.fromEntries([...said].filter(([name, value]) => known.has(name) && value !== known.get(name).default));
}

/** The seed that an answer was drawn with stands where one's own could. */
export function showSeed(seed) {
  controls.get("seed")?.setAttribute("placeholder", seed ?? "drawn");
}

function field(name) {
  const { low, high, step, default: value, description } = known.get(name);
  const label = LABELS[name] ?? (name[0].toUpperCase() + name.slice(1)).replaceAll("_", " ");
  const common = { id: `option-${name}`, name, min: low, max: high, step, "aria-describedby": `about-${name}` };
  const control = value === "" // without a default there is no place for a slider to stand
    ? make("input", { type: "number", ...common, placeholder: "drawn", inputMode: "numeric" })
    : make("input", { type: "range", ...common });
  controls.set(name, control);
  const output = make("output", { id: `value-${name}`, htmlFor: control.id });
  set(name, value);
  const about = make("p", { id: `about-${name}`, className: "note" }, description);
  return make("div", { className: "field" }, make("label", { htmlFor: control.id }, label), output, control, about);
}

function set(name, value) {
  values.set(name, value);
  const control = controls.get(name);
  if (control.value !== value) control.value = value;
}

const number = (name) => Number(values.get(name));
const samples = () => number("temperature") > 0;

/** Of two options that bound each other the one that was not touched gives way. */
function agree(touched) {
  const bounds = [["min_length", "max_length"], ...(samples() ? [] : [["num_captions", "beam_size"]])];
  for (const [less, more] of bounds) {
    if (number(less) <= number(more)) continue;
    if (touched === less) set(more, values.get(less));
    else set(less, values.get(more));
  }
}

function refresh() {
  for (const [name, value] of values) {
    const output = at(`value-${name}`);
    if (controls.get(name).type === "range") output.textContent = say(name, value);
    output.classList.toggle("changed", value !== known.get(name).default);
  }
  const moot = { beam_size: samples(), top_p: !samples(), seed: !samples() };
  for (const [name, is] of Object.entries(moot)) if (controls.has(name)) controls.get(name).disabled = is;
  const count = Object.keys(optionFields()).length;
  at("changed").textContent = count ? ` · ${count} changed` : "";
  at("reset").disabled = [...values].every(([name, value]) => value === known.get(name).default);
}

function say(name, value) {
  if (Number(value) === 0 && (name === "temperature" || name === "no_repeat_ngram")) return "off";
  return value;
}
