import { at, endpoint, make, openDialog } from "./page.js";

const TEXTS = { limits: "Where it fails", data: "Learned from", terms: "Terms" };

/** Fills the dialog with what of the card there is: other models' cards have other parts. */
export function showCard() {
  const { model, card } = endpoint;
  at("open-card").addEventListener("click", () => openDialog(at("card")));
  at("card-heading").textContent = card.name || model.name;
  const parts = [];
  for (const [key, title] of Object.entries(TEXTS)) {
    if (card[key]) parts.push(make("h3", {}, title), make("p", {}, String(card[key])));
  }
  const scores = Array.isArray(card.scores) ? card.scores.filter((one) => one?.scores) : [];
  if (scores.length) parts.push(make("h3", {}, "Scores × 100"), table(scores));
  parts.push(make("h3", {}, "Model"), facts(model, card.training ?? {}));
  at("card-content").append(...parts);
}

function table(scores) {
  const names = [...new Set(scores.flatMap((one) => Object.keys(one.scores)))];
  const splits = scores.map(({ split = "", n }) => heading("col", n ? `${split}, ${n} pictures` : split));
  const rows = names.map((name) => {
    const cells = scores.map((one) => make("td", {}, hundredfold(one.scores[name])));
    return make("tr", {}, heading("row", name.replace(/^Bleu_/, "BLEU-").replace("_", "-")), ...cells);
  });
  return make("table", {}, make("thead", {}, make("tr", {}, make("td"), ...splits)), make("tbody", {}, ...rows));
}

const hundredfold = (score) => (typeof score === "number" ? (Math.round(1000 * score) / 10).toFixed(1) : "–");
const heading = (scope, text) => make("th", { scope }, text);

function facts(model, training) {
  const known = {
    served: `${model.name} ${model.version}`,
    encoder: training.encoder,
    decoder: training.decoder?.name,
    pictures: training.train_images?.toLocaleString("en"),
    captions: training.train_captions?.toLocaleString("en"),
    digest: model.digest,
  };
  const rows = Object.entries(known).filter(([, value]) => value);
  return make("dl", {}, ...rows.map(([name, value]) => make("div", {}, make("dt", {}, name), make("dd", {}, value))));
}
