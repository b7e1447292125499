/** Data that the server embeds: model, card, options, max_bytes, formats, samples. */
export const pageData = JSON.parse(document.getElementById("page-data").textContent);

export const byId = (id) => document.getElementById(id);

/** Creates an element. A name that is no property of the element becomes an attribute; strings are added as text. */
export function createElement(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name in element) element[name] = value;
    else element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

export function createLink(text, href) {
  return createElement("a", { href, rel: "noreferrer" }, text);
}

/** Announces a change to screen readers. */
export function announce(text) {
  byId("status").textContent = text;
}

/** Opens a modal dialog and connects its close button. */
export function openDialog(dialog) {
  dialog.querySelector(".close")?.addEventListener("click", () => dialog.close(), { once: true });
  dialog.showModal();
}

const CARD_TEXTS = { limits: "Limitations", data: "Training data", terms: "Terms" };

/** Fills the model card dialog. Every part of a card is optional. */
export function buildModelCard() {
  const { model, card } = pageData;
  byId("open-card").addEventListener("click", () => openDialog(byId("card")));
  byId("card-heading").textContent = card.name || model.name;
  const parts = [];
  for (const [key, title] of Object.entries(CARD_TEXTS)) {
    if (card[key]) parts.push(createElement("h3", {}, title), createElement("p", {}, String(card[key])));
  }
  const splits = Array.isArray(card.scores) ? card.scores.filter((split) => split?.scores) : [];
  if (splits.length) parts.push(createElement("h3", {}, "Scores × 100"), createScoreTable(splits));
  parts.push(createElement("h3", {}, "Model"), createModelFacts(model, card.training ?? {}));
  byId("card-content").append(...parts);
}

function createScoreTable(splits) {
  const header = (scope, text) => createElement("th", { scope }, text);
  const titles = splits.map(({ split = "", n }) => header("col", n ? `${split}, ${n} images` : split));
  const metrics = [...new Set(splits.flatMap(({ scores }) => Object.keys(scores)))];
  const rows = metrics.map((metric) => {
    const cells = splits.map(({ scores }) => createElement("td", {}, formatScore(scores[metric])));
    return createElement("tr", {}, header("row", metric.replace(/^Bleu_/, "BLEU-").replace("_", "-")), ...cells);
  });
  const head = createElement("thead", {}, createElement("tr", {}, createElement("td"), ...titles));
  return createElement("table", {}, head, createElement("tbody", {}, ...rows));
}

function formatScore(score) {
  return typeof score === "number" ? (Math.round(1000 * score) / 10).toFixed(1) : "–";
}

function createModelFacts(model, training) {
  const facts = {
    version: `${model.name} ${model.version}`,
    encoder: training.encoder,
    decoder: training.decoder?.name,
    images: training.train_images?.toLocaleString("en"),
    captions: training.train_captions?.toLocaleString("en"),
    digest: model.digest,
  };
  const rows = Object.entries(facts)
    .filter(([, value]) => value)
    .map(([name, value]) => createElement("div", {}, createElement("dt", {}, name), createElement("dd", {}, value)));
  return createElement("dl", {}, ...rows);
}
