"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const isRun = data.kind === "run";
const PAGE = 24;
const SVG = "http://www.w3.org/2000/svg";

const at = (id) => document.getElementById(id);
const percent = (value) => (100 * value).toFixed(1);
const signed = (value) => (value > 0 ? "+" : "") + percent(value);

/** An element with text and children; all text goes in as text, as captions are anybody's. */
function make(tag, options = {}, ...children) {
  const element = document.createElement(tag);
  if (options.class) element.className = options.class;
  if (options.text !== undefined) element.textContent = options.text;
  element.append(...children);
  return element;
}

function draw(tag, attributes, text) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  if (text !== undefined) element.textContent = text;
  return element;
}

function tableRow(cells, head) {
  return make("tr", {}, ...cells.map((cell) => (cell instanceof Node ? cell : make(head ? "th" : "td", { text: cell }))));
}

/** An interval as a line with the score on it, between two ends of the scale. */
function intervalBar([low, high], score, from, to, label) {
  const x = (value) => (4 + (192 * (value - from)) / (to - from)).toFixed(1);
  const svg = draw("svg", { viewBox: "0 0 200 14", role: "img", "aria-label": label });
  svg.append(draw("line", { class: "axis", x1: 4, x2: 196, y1: 7, y2: 7 }));
  if (from < 0 && to > 0) svg.append(draw("line", { class: "zero", x1: x(0), x2: x(0), y1: 0, y2: 14 }));
  svg.append(draw("line", { class: "range", x1: x(low), x2: x(high), y1: 7, y2: 7 }));
  svg.append(draw("circle", { class: "point", cx: x(score), cy: 7, r: 3.5 }));
  return make("td", { class: "bar" }, svg);
}

function showScores() {
  const table = at("scores");
  if (isRun) {
    const { scores, intervals } = data.content;
    const top = Math.max(...Object.values(scores), ...Object.values(intervals).map((ends) => ends[1]));
    table.append(make("thead", {}, tableRow(["metric", "score", "95 % interval", ""], true)));
    table.append(make("tbody", {}, ...Object.entries(scores).map(([name, score]) => {
      const ends = intervals[name];
      const label = `${name} ${percent(score)}, 95 % interval from ${percent(ends[0])} to ${percent(ends[1])}`;
      return tableRow([name, percent(score), `${percent(ends[0])} – ${percent(ends[1])}`, intervalBar(ends, score, 0, top, label)]);
    })));
    return;
  }
  const found = Object.entries(data.differences);
  const top = Math.max(...found.flatMap(([, one]) => one.interval.map(Math.abs))) || 1;
  table.append(make("thead", {}, tableRow(["metric", data.names[0], data.names[1], "difference", "95 % interval", "p", ""], true)));
  table.append(make("tbody", {}, ...found.map(([name, one]) => {
    const clear = one.p < 0.05;
    const difference = make("td", { text: signed(one.difference), class: clear ? (one.difference < 0 ? "worse" : "better") : "" });
    const label = `${name} differs by ${signed(one.difference)}, p = ${one.p.toFixed(3)}`;
    return tableRow([
      name, percent(one.a), percent(one.b), difference, one.interval.map(signed).join(" … "), one.p.toFixed(3),
      intervalBar(one.interval, one.difference, -top, top, label),
    ]);
  })));
}

function showFacts() {
  const facts = [];
  if (isRun) {
    const c = data.content;
    facts.push(["pictures", c.n], ["failed", c.failed], ["empty captions", c.empty]);
    if (c.throughput) facts.push(["pictures a second", c.throughput]);
    for (const [name, value] of Object.entries(c.latency_ms)) facts.push([`latency ${name}`, `${Math.round(value)} ms`]);
    facts.push(["bad endings", `${percent(c.bad_endings)} %`], ["words a caption", c.mean_length.toFixed(1)]);
    facts.push(["words used", c.vocabulary], ["distinct captions", `${percent(c.distinct)} %`]);
    if (c.copied !== undefined) facts.push(["copies of training", `${percent(c.copied)} %`]);
  } else {
    const count = (test) => data.images.filter((image) => test(image.change)).length;
    facts.push(["pictures", data.images.length], ["better in CIDEr", count((x) => x > 0)]);
    facts.push(["worse", count((x) => x < 0)], ["the same", count((x) => x === 0)]);
  }
  at("facts").append(...facts.map(([name, value]) => make("div", {}, make("dt", { text: name }), make("dd", { text: value }))));
}

function frame(title, from, to) {
  const svg = draw("svg", { viewBox: "0 0 320 150", role: "img", "aria-label": title });
  svg.append(draw("line", { class: "axis", x1: 10, x2: 310, y1: 130, y2: 130 }));
  svg.append(draw("text", { x: 10, y: 145 }, from), draw("text", { x: 310, y: 145, "text-anchor": "end" }, to));
  return svg;
}

function histogram(title, values, bins, low, high, format) {
  const counts = new Array(bins).fill(0);
  for (const value of values) counts[Math.min(bins - 1, Math.floor((bins * (value - low)) / (high - low || 1)))] += 1;
  const top = Math.max(...counts, 1);
  const svg = frame(title, format(low), format(high));
  counts.forEach((count, i) => {
    const height = (110 * count) / top;
    const bar = draw("rect", { class: "fill", x: 10 + (300 * i) / bins, y: 130 - height, width: 300 / bins - 1, height });
    bar.append(draw("title", {}, `${format(low + ((high - low) * i) / bins)}: ${count}`));
    svg.append(bar);
  });
  svg.append(draw("text", { x: 10, y: 12 }, `${top} at most`));
  return make("figure", {}, svg, make("figcaption", { text: title }));
}

function latencyChart(images) {
  const answered = images.filter((image) => !image.error);
  const ms = answered.map((image) => 1000 * image.seconds);
  const top = Math.max(...ms, 1);
  const end = Math.max(...answered.map((image) => image.at), 0.001);
  const svg = frame("Latency of each picture over the run", "0 s", `${end.toFixed(0)} s`);
  answered.forEach((image, i) => {
    svg.append(draw("circle", { class: "fill", cx: 10 + (300 * image.at) / end, cy: 130 - (110 * ms[i]) / top, r: 1.6 }));
  });
  svg.append(draw("text", { x: 10, y: 12 }, `${Math.round(top)} ms at most`));
  return make("figure", {}, svg, make("figcaption", { text: "Latency of each picture, over the seconds since its session began" }));
}

function showCharts() {
  const cider = data.images.map((image) => image.scores.CIDEr);
  const two = (value) => value.toFixed(1);
  if (!isRun) {
    const changes = data.images.map((image) => image.change);
    const top = Math.max(...changes.map(Math.abs)) || 1;
    at("charts").append(histogram("Change in each picture's CIDEr", changes, 41, -top, top, two));
    return;
  }
  const lengths = data.images.map((image) => (image.caption.match(/\S+/g) || []).length);
  const longest = Math.max(...lengths, 1);
  at("charts").append(
    histogram("CIDEr of each picture", cider, 40, 0, Math.max(...cider, 1), two),
    histogram("Words in each caption", lengths, longest + 1, 0, longest + 1, (value) => value.toFixed(0)),
  );
  if (data.images.some((image) => !image.error)) at("charts").append(latencyChart(data.images));
}

const ORDERS = isRun
  ? {
      "best first": (a, b) => b.scores.CIDEr - a.scores.CIDEr,
      "worst first": (a, b) => a.scores.CIDEr - b.scores.CIDEr,
      "most disputed first": (a, b) => b.disputed - a.disputed,
      "slowest first": (a, b) => b.seconds - a.seconds,
    }
  : {
      "most changed first": (a, b) => Math.abs(b.change) - Math.abs(a.change),
      "most gained first": (a, b) => b.change - a.change,
      "most lost first": (a, b) => a.change - b.change,
    };
const FILTERS = isRun
  ? { all: () => true, failed: (image) => image.error, "empty captions": (image) => !image.caption, "bad endings": (image) => image.bad }
  : { all: () => true, "other captions": (image) => image.captions[0] !== image.captions[1], better: (image) => image.change > 0, worse: (image) => image.change < 0 };

function numbers(scores) {
  return Object.entries(scores).map(([name, value]) => `${name} ${value.toFixed(2)}`).join(" · ");
}

function card(image) {
  const item = make("li");
  if (image.picture) {
    const picture = make("img");
    picture.src = image.picture;
    picture.alt = `picture ${image.id}`;
    picture.loading = "lazy";
    item.append(picture);
  }
  if (isRun) {
    item.append(make("p", { class: "caption", text: image.caption || "(no caption)" }));
    if (image.error) item.append(make("p", { class: "error", text: image.error }));
    item.append(make("p", { class: "numbers", text: `${numbers(image.scores)} · ${Math.round(1000 * image.seconds)} ms · id ${image.id}` }));
  } else {
    item.append(make("p", { class: "was", text: `${data.names[0]}: ${image.captions[0] || "(no caption)"}` }));
    item.append(make("p", { class: "caption", text: `${data.names[1]}: ${image.captions[1] || "(no caption)"}` }));
    const change = make("span", { class: image.change < 0 ? "worse" : "better", text: `${image.change > 0 ? "+" : ""}${image.change.toFixed(2)}` });
    item.append(make("p", { class: "numbers" }, `CIDEr ${image.before.CIDEr.toFixed(2)} → ${image.scores.CIDEr.toFixed(2)} (`, change, `) · id ${image.id}`));
  }
  item.append(make("ul", {}, ...image.references.map((text) => make("li", { text }))));
  return item;
}

let chosen = [];
let shown = 0;

function showMore() {
  const next = chosen.slice(shown, shown + PAGE);
  at("pictures").append(...next.map(card));
  shown += next.length;
  at("more").hidden = shown >= chosen.length;
}

function choose() {
  const words = at("search").value.toLowerCase().trim();
  const said = (image) => [image.caption, ...(image.captions || []), ...image.references, String(image.id)].join("\n").toLowerCase();
  chosen = data.images.filter(FILTERS[at("filter").value]).filter((image) => !words || said(image).includes(words));
  chosen.sort(ORDERS[at("order").value]);
  at("count").textContent = `${chosen.length} of ${data.images.length} pictures`;
  at("pictures").replaceChildren();
  shown = 0;
  showMore();
}

function begin() {
  const title = isRun ? data.name : `${data.names[0]} and ${data.names[1]}`;
  document.title = title;
  at("title").textContent = title;
  at("subtitle").textContent = isRun ? "A split captioned through an endpoint, and scored." : "Two runs on the same pictures. p is of approximate randomisation, two-sided.";
  if (isRun) at("signature").textContent = data.content.signature;
  showScores();
  showFacts();
  showCharts();
  for (const [id, options] of [["order", ORDERS], ["filter", FILTERS]]) {
    at(id).append(...Object.keys(options).map((text) => make("option", { text })));
    at(id).addEventListener("change", choose);
  }
  at("search").addEventListener("input", choose);
  at("filters").addEventListener("submit", (event) => event.preventDefault());
  at("more").addEventListener("click", showMore);
  choose();
}

begin();
