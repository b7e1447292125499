import { byId, createElement, pageData } from "./dom.js";

const GROUPS = {
  Search: ["beam_size", "length_penalty", "num_captions"],
  Variety: ["num_beam_groups", "diversity_penalty"],
  Length: ["min_length", "max_length"],
  Repetition: ["no_repeat_ngram", "no_repeat_words"],
  Sampling: ["temperature", "top_p", "seed"],
};
const LABELS = {
  min_length: "Min. words",
  max_length: "Max. words",
  num_captions: "Captions",
  num_beam_groups: "Groups of beams",
  no_repeat_ngram: "No repeated n-gram",
  no_repeat_words: "No repeated words",
  top_p: "Top p",
};
const ZERO_IS_OFF = ["temperature", "no_repeat_ngram"];
const DEBOUNCE_MS = 350; // ms without a change before the image is captioned again
const optionsByName = new Map(
  pageData.options.map((option) => [option.name, { ...option, default: String(option.default ?? "") }]),
);
const values = new Map(); // option name → current value as a string
const inputs = new Map(); // option name → input element

/** Builds the form. `onChange` is called once the inputs have stopped changing. */
export function buildOptions(onChange) {
  const grouped = new Set(Object.values(GROUPS).flat());
  const others = [...optionsByName.keys()].filter((name) => !grouped.has(name));
  for (const [title, names] of Object.entries({ ...GROUPS, More: others })) {
    const fields = names.filter((name) => optionsByName.has(name)).map(createField);
    if (fields.length)
      byId("fields").append(createElement("fieldset", {}, createElement("legend", {}, title), ...fields));
  }
  let timer;
  const update = (delay) => {
    refresh();
    clearTimeout(timer);
    timer = setTimeout(onChange, delay);
  };
  byId("fields").addEventListener("input", ({ target }) => {
    setValue(target.name, target.type === "checkbox" ? String(target.checked) : target.value);
    enforceBounds(target.name);
    update(DEBOUNCE_MS);
  });
  byId("fields").addEventListener("submit", (event) => event.preventDefault());
  byId("reset").addEventListener("click", () => {
    for (const [name, option] of optionsByName) setValue(name, option.default);
    update(0);
    byId("options-heading").focus();
  });
  refresh();
}

/** Returns the options to send: those that differ from their default and are active. */
export function changedOptions() {
  const effective = new Map(values);
  if (isSampling()) effective.set("num_beam_groups", "1");
  else effective.set("top_p", "1").set("seed", "");
  return Object.fromEntries([...effective].filter(([name]) => optionsByName.has(name) && !isDefault(name, effective)));
}

/** Shows the seed that a response was sampled with as the placeholder of the input. */
export function showSeed(seed) {
  inputs.get("seed")?.setAttribute("placeholder", seed ?? "random");
}

function createField(name) {
  const { min, max, step, default: value, help } = optionsByName.get(name);
  const label = LABELS[name] ?? (name[0].toUpperCase() + name.slice(1)).replaceAll("_", " ");
  const [id, noteId] = [`option-${name}`, `note-${name}`];
  const type = isFlag(name)
    ? { type: "checkbox" }
    : value === "" // a slider cannot show a missing default
      ? { type: "number", placeholder: "random", inputMode: "numeric" }
      : { type: "range" };
  const input = createElement("input", { ...type, id, name, "aria-describedby": noteId });
  if (!isFlag(name)) Object.assign(input, { min, max, step });
  inputs.set(name, input);
  setValue(name, value);
  return createElement(
    "div",
    { className: "field" },
    createElement("label", { htmlFor: id }, label),
    createElement("output", { id: `value-${name}`, htmlFor: id }),
    input,
    createElement("p", { id: noteId, className: "note" }, help),
  );
}

function setValue(name, value) {
  values.set(name, value);
  const input = inputs.get(name);
  if (isFlag(name)) input.checked = value === "true";
  else if (input.value !== value) input.value = value;
}

const isFlag = (name) => ["true", "false"].includes(optionsByName.get(name).default);
const numberOf = (name) => Number(values.get(name));
const isSampling = () => numberOf("temperature") > 0;
const isDefault = (name, current = values) => current.get(name) === optionsByName.get(name).default;

/** Keeps pairs of options consistent: the option that the user did not change follows. */
function enforceBounds(changed) {
  const pairs = [["min_length", "max_length"], ...(isSampling() ? [] : [["num_captions", "beam_size"]])];
  for (const [lower, upper] of pairs) {
    if (numberOf(lower) <= numberOf(upper)) continue;
    if (changed === lower) setValue(upper, values.get(lower));
    else setValue(lower, values.get(upper));
  }
  if (!isSampling()) fitGroups(changed);
}

/** Makes the groups divide the beams: the beams follow, unless they were changed or there are too few. */
function fitGroups(changed) {
  const [beams, groups] = [numberOf("beam_size"), numberOf("num_beam_groups")];
  if (beams % groups === 0) return;
  const { max } = optionsByName.get("beam_size");
  const multiples = [Math.ceil(beams / groups) * groups, Math.floor(max / groups) * groups];
  const fitting = multiples.find((multiple) => multiple <= max && multiple >= numberOf("num_captions"));
  if (changed !== "beam_size" && fitting) setValue("beam_size", String(fitting));
  else setValue("num_beam_groups", String(largestDivisor(beams, groups)));
}

function largestDivisor(number, max) {
  let divisor = max;
  while (number % divisor !== 0) divisor -= 1;
  return divisor;
}

function refresh() {
  for (const [name, value] of values) {
    const output = byId(`value-${name}`);
    if (inputs.get(name).type !== "number") output.textContent = formatValue(name, value);
    output.classList.toggle("changed", !isDefault(name));
  }
  const inactive = {
    beam_size: isSampling(),
    num_beam_groups: isSampling(),
    diversity_penalty: isSampling() || numberOf("num_beam_groups") === 1,
    top_p: !isSampling(),
    seed: !isSampling(),
  };
  for (const [name, isInactive] of Object.entries(inactive)) {
    if (inputs.has(name)) inputs.get(name).disabled = isInactive;
  }
  const count = Object.keys(changedOptions()).length;
  byId("num-changed").textContent = count ? ` · ${count} changed` : "";
  byId("reset").disabled = [...values.keys()].every((name) => isDefault(name));
}

function formatValue(name, value) {
  if (isFlag(name)) return value === "true" ? "on" : "off";
  return Number(value) === 0 && ZERO_IS_OFF.includes(name) ? "off" : value;
}
