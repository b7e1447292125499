const data = JSON.parse(document.getElementById("data").textContent);
const isRun = data.kind === "run";
const PAGE_SIZE = 24; // images
const SVG_NAMESPACE = "http://www.w3.org/2000/svg";

const byId = (id) => document.getElementById(id);
const percent = (value) => (100 * value).toFixed(1);
const signedPercent = (value) => (value > 0 ? "+" : "") + percent(value);
const oneDecimal = (value) => value.toFixed(1);

/** Creates an HTML element. Strings are added as text, as captions are untrusted. */
function createElement(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

function createSvg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG_NAMESPACE, tag), attributes, children);
}

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

// Scores

function createRow(tag, cells) {
  return createElement("tr", {}, ...cells.map((cell) => (cell instanceof Node ? cell : createElement(tag, {}, cell))));
}

function fillTable(id, titles, rows) {
  byId(id).append(
    createElement("thead", {}, createRow("th", titles)),
    createElement("tbody", {}, ...rows.map((cells) => createRow("td", cells))),
  );
}

function fillScoreTable(titles, rows) {
  fillTable("scores", [...titles, createElement("td", { class: "bar" })], rows);
}

/** Draws a confidence interval as a line with the score on it, on a scale from `min` to `max`. */
function createIntervalCell([low, high], score, [min, max], label) {
  const x = (value) => (4 + (192 * (value - min)) / (max - min)).toFixed(1);
  const svg = createSvg("svg", { viewBox: "0 0 200 14", role: "img", "aria-label": label });
  svg.append(createSvg("line", { class: "axis", x1: 4, x2: 196, y1: 7, y2: 7 }));
  if (min < 0 && max > 0) svg.append(createSvg("line", { class: "zero", x1: x(0), x2: x(0), y1: 0, y2: 14 }));
  svg.append(createSvg("line", { class: "range", x1: x(low), x2: x(high), y1: 7, y2: 7 }));
  svg.append(createSvg("circle", { class: "point", cx: x(score), cy: 7, r: 3.5 }));
  return createElement("td", { class: "bar" }, svg);
}

function showRunScores() {
  const { scores, intervals, captioned, n } = data.content;
  const coverage = `${captioned}/${n}`;
  const max = Math.max(...Object.values(scores), ...Object.values(intervals).map(([, high]) => high));
  const rows = Object.entries(scores).map(([name, score]) => {
    const [low, high] = intervals[name].map(percent);
    const label = `${name} ${percent(score)}, 95 % interval from ${low} to ${high}`;
    return [
      name,
      percent(score),
      `${low} – ${high}`,
      coverage,
      createIntervalCell(intervals[name], score, [0, max], label),
    ];
  });
  fillScoreTable(["metric", "score × 100", "95 % interval", "coverage"], rows);
}

function showDifferences() {
  const differences = Object.entries(data.differences);
  const max = Math.max(...differences.flatMap(([, { interval }]) => interval.map(Math.abs))) || 1;
  const rows = differences.map(([name, { a, b, difference, interval, p }]) => {
    const label = `${name} differs by ${signedPercent(difference)}, p = ${p.toFixed(3)}`;
    return [
      name,
      percent(a),
      percent(b),
      createElement("td", p < 0.05 ? { class: trendClass(difference) } : {}, signedPercent(difference)),
      interval.map(signedPercent).join(" … "),
      p.toFixed(3),
      createIntervalCell(interval, difference, [-max, max], label),
    ];
  });
  fillScoreTable(["metric", ...data.names, "difference", "95 % interval", "p"], rows);
}

function showMeasures() {
  const systems = isRun ? ["captions", "people"] : [...data.names, "people", "95 % interval"];
  const isRunOfWords = ([label]) => label.startsWith('"');
  const runs = data.measures.filter(isRunOfWords);
  fillTable(
    "measures",
    ["measure", ...systems],
    data.measures.filter((row) => !isRunOfWords(row)),
  );
  if (runs.length) fillTable("runs", ["overused words", ...systems], runs);
  const warnings = isRun ? data.content.warnings : [];
  byId("warnings-heading").hidden = !warnings.length;
  byId("warnings").append(...warnings.map((text) => createElement("li", {}, text)));
}

function trendClass(change) {
  return change < 0 ? "worse" : "better";
}

function runFacts() {
  const content = data.content;
  const facts = [
    ["images", content.n],
    ["failed", content.failed],
    ["empty captions", content.empty],
  ];
  if (content.throughput) facts.push(["images per second", content.throughput]);
  for (const [name, ms] of Object.entries(content.latency_ms)) facts.push([`latency ${name}`, `${Math.round(ms)} ms`]);
  return facts;
}

function comparisonFacts() {
  const count = (matches) => data.images.filter(({ change }) => matches(change)).length;
  return [
    ["images", data.images.length],
    ["CIDEr better", count((change) => change > 0)],
    ["CIDEr worse", count((change) => change < 0)],
    ["CIDEr equal", count((change) => change === 0)],
  ];
}

function showFacts(facts) {
  const items = facts.map(([name, value]) => [createElement("dt", {}, name), createElement("dd", {}, value)]);
  byId("facts").append(...items.map((item) => createElement("div", {}, ...item)));
}

// Charts

function createAxes(title, from, to) {
  const svg = createSvg("svg", { viewBox: "0 0 320 150", role: "img", "aria-label": title });
  svg.append(createSvg("line", { class: "axis", x1: 10, x2: 310, y1: 130, y2: 130 }));
  svg.append(createSvg("text", { x: 10, y: 145 }, from));
  svg.append(createSvg("text", { x: 310, y: 145, "text-anchor": "end" }, to));
  return svg;
}

function createFigure(svg, maxLabel, title) {
  svg.append(createSvg("text", { x: 10, y: 12 }, maxLabel));
  return createElement("figure", {}, svg, createElement("figcaption", {}, title));
}

function createHistogram(title, values, numBins, [min, max], format) {
  const counts = new Array(numBins).fill(0);
  for (const value of values) {
    counts[Math.min(numBins - 1, Math.floor((numBins * (value - min)) / (max - min || 1)))] += 1;
  }
  const maxCount = Math.max(...counts, 1);
  const svg = createAxes(title, format(min), format(max));
  for (const [i, count] of counts.entries()) {
    const height = (110 * count) / maxCount;
    const box = { x: 10 + (300 * i) / numBins, y: 130 - height, width: 300 / numBins - 1, height };
    const tooltip = createSvg("title", {}, `${format(min + ((max - min) * i) / numBins)}: ${count}`);
    svg.append(createSvg("rect", { class: "fill", ...box }, tooltip));
  }
  return createFigure(svg, `max. ${maxCount}`, title);
}

function createLatencyChart() {
  const answered = data.images.filter(({ error }) => !error);
  const maxMs = Math.max(...answered.map(({ seconds }) => 1000 * seconds), 1);
  const end = Math.max(...answered.map(({ at }) => at), 0.001);
  const title = "Latency of each image over the time of the run";
  const svg = createAxes(title, "0 s", `${end.toFixed(0)} s`);
  for (const { at, seconds } of answered) {
    const position = { cx: 10 + (300 * at) / end, cy: 130 - (110 * 1000 * seconds) / maxMs };
    svg.append(createSvg("circle", { class: "fill", ...position, r: 1.6 }));
  }
  return createFigure(svg, `max. ${Math.round(maxMs)} ms`, title);
}

function runCharts() {
  const cider = data.images.map(({ scores }) => scores.CIDEr);
  const lengths = data.images.map(({ caption }) => (caption.match(/\S+/g) || []).length);
  const numLengths = Math.max(...lengths, 1) + 1;
  const charts = [
    ...("CIDEr" in data.content.scores
      ? [createHistogram("CIDEr of each image", cider, 40, [0, Math.max(...cider, 1)], oneDecimal)]
      : []),
    createHistogram("Words per caption", lengths, numLengths, [0, numLengths], (value) => value.toFixed(0)),
  ];
  return data.images.every(({ error }) => error) ? charts : [...charts, createLatencyChart()];
}

function comparisonCharts() {
  const changes = data.images.map(({ change }) => change);
  const max = Math.max(...changes.map(Math.abs)) || 1;
  return [createHistogram("Change in CIDEr of each image", changes, 41, [-max, max], oneDecimal)];
}

// Images

const ORDERS = isRun
  ? {
      "best first": (a, b) => b.scores.CIDEr - a.scores.CIDEr,
      "worst first": (a, b) => a.scores.CIDEr - b.scores.CIDEr,
      "CIDEr and METEOR disagree most": (a, b) => b.disagreement - a.disagreement,
      "slowest first": (a, b) => b.seconds - a.seconds,
    }
  : {
      "largest change first": (a, b) => Math.abs(b.change) - Math.abs(a.change),
      "largest gain first": (a, b) => b.change - a.change,
      "largest loss first": (a, b) => a.change - b.change,
    };
const FILTERS = isRun
  ? {
      all: () => true,
      failed: (image) => image.error,
      "empty captions": (image) => !image.caption,
      "bad endings": (image) => image.bad_ending,
    }
  : {
      all: () => true,
      "different captions": (image) => image.captions[0] !== image.captions[1],
      better: (image) => image.change > 0,
      worse: (image) => image.change < 0,
    };
let selectedImages = [];
let numShown = 0;

function createImageItem(image) {
  const item = createElement("li");
  if (image.thumbnail) {
    item.append(createElement("img", { src: image.thumbnail, alt: `image ${image.id}`, loading: "lazy" }));
  }
  item.append(...(isRun ? describeRunImage(image) : describeComparedImage(image)));
  item.append(createElement("ul", {}, ...image.references.map((text) => createElement("li", {}, text))));
  return item;
}

function describeRunImage({ caption, error, scores, seconds, id }) {
  const measured = Object.entries(scores).filter(([name]) => name in data.content.scores);
  const formatted = measured.map(([name, value]) => `${name} ${value.toFixed(2)}`);
  const numbers = [...formatted, `${Math.round(1000 * seconds)} ms`, `id ${id}`].join(" · ");
  return [
    createElement("p", { class: "caption" }, caption || "(no caption)"),
    ...(error ? [createElement("p", { class: "error" }, error)] : []),
    createElement("p", { class: "numbers" }, numbers),
  ];
}

function describeComparedImage({ captions, change, scores_before: before, scores: after, id }) {
  const [captionA, captionB] = captions.map((caption, i) => `${data.names[i]}: ${caption || "(no caption)"}`);
  const sign = change > 0 ? "+" : "";
  const changeText = createElement("span", { class: trendClass(change) }, `${sign}${change.toFixed(2)}`);
  const values = `CIDEr ${before.CIDEr.toFixed(2)} → ${after.CIDEr.toFixed(2)} (`;
  return [
    createElement("p", { class: "caption-before" }, captionA),
    createElement("p", { class: "caption" }, captionB),
    createElement("p", { class: "numbers" }, values, changeText, `) · id ${id}`),
  ];
}

function showMore() {
  const next = selectedImages.slice(numShown, numShown + PAGE_SIZE);
  byId("images").append(...next.map(createImageItem));
  numShown += next.length;
  byId("more").hidden = numShown >= selectedImages.length;
}

/** Applies the filter, the search and the order, and shows the first images. */
function updateImages() {
  const query = byId("search").value.toLowerCase().trim();
  const matches = ({ caption, captions = [caption], references, id }) =>
    [...captions, ...references, id].join("\n").toLowerCase().includes(query);
  selectedImages = data.images.filter(FILTERS[byId("filter").value]).filter(matches);
  selectedImages.sort(ORDERS[byId("order").value]);
  byId("count").textContent = `${selectedImages.length} of ${data.images.length} images`;
  byId("images").replaceChildren();
  numShown = 0;
  showMore();
}

function fillSelect(select, options) {
  select.append(...Object.keys(options).map((text) => createElement("option", {}, text)));
  select.addEventListener("change", updateImages);
}

const title = isRun ? data.name : data.names.join(" and ");
document.title = title;
byId("title").textContent = title;
byId("subtitle").textContent = isRun
  ? "Scores of the captions that an endpoint generated for one split."
  : "Two runs on the same images. p: two-sided approximate randomisation test.";
if (isRun) {
  byId("signature").textContent = data.content.signature;
  showRunScores();
} else {
  showDifferences();
}
showMeasures();
showFacts(isRun ? runFacts() : comparisonFacts());
byId("charts").append(...(isRun ? runCharts() : comparisonCharts()));
fillSelect(byId("order"), ORDERS);
fillSelect(byId("filter"), FILTERS);
byId("search").addEventListener("input", updateImages);
byId("filters").addEventListener("submit", (event) => event.preventDefault());
byId("more").addEventListener("click", showMore);
updateImages();
