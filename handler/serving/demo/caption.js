import { byId, createElement } from "./dom.js";

const SAMPLES_PER_CELL = 15; // canvas pixels for each side of a cell; odd, so that one of them is the centre
const OVERLAY_COLOR = [112, 114, 120]; // mid grey: on black, dark parts of an image could not be told from the overlay
const MAX_OPACITY = 0.8; // where the attention is 0
const GAMMA = 0.75; // exponent of the attention; below 1, regions with little attention stay visible
const TRANSITION_MS = 220; // ms from one attention map to the next
const WORD_INTERVAL_MS = 900; // ms for each word during playback
const REGION_NAMES = [
  ["upper left", "top", "upper right"],
  ["left", "centre", "right"],
  ["lower left", "bottom", "lower right"],
];
const reducedMotion = matchMedia("(prefers-reduced-motion: reduce)");

/**
 * Shows a word's attention map: a grey overlay on the image whose opacity falls as the attention rises
 * (after the figures of Xu et al. 2015, Show, Attend and Tell).
 */
export class AttentionOverlay {
  #canvas;
  #attention = null; // (rows, columns) of 0 to 1, as drawn
  #frame = 0; // id of the animation frame

  constructor(canvas) {
    this.#canvas = canvas;
  }

  /** Moves to the attention map of a word: (rows, columns) of weights. null uncovers the whole image. */
  show(weights) {
    cancelAnimationFrame(this.#frame);
    const shape = weights ?? this.#attention;
    if (!shape) return;
    const max = weights && Math.max(...weights.flat());
    const target = shape.map((row) => row.map((weight) => (weights ? weight / max : 1)));
    const sameShape = this.#attention?.length === target.length && this.#attention[0].length === target[0].length;
    const origin = sameShape ? this.#attention : target.map((row) => row.map(() => 1));
    const start = performance.now();
    const step = (now) => {
      const progress = reducedMotion.matches ? 1 : Math.min(1, Math.max(0, now - start) / TRANSITION_MS);
      const eased = progress * progress * (3 - 2 * progress);
      this.#draw(target.map((row, r) => row.map((value, c) => origin[r][c] + eased * (value - origin[r][c]))));
      if (progress < 1) this.#frame = requestAnimationFrame(step);
    };
    step(start);
  }

  /** Removes the overlay at once, for a new image. */
  clear() {
    cancelAnimationFrame(this.#frame);
    this.#attention = null;
    this.#canvas.width = this.#canvas.height = 1;
  }

  #draw(attention) {
    this.#attention = attention;
    const canvas = this.#canvas;
    const [width, height] = [attention[0].length * SAMPLES_PER_CELL, attention.length * SAMPLES_PER_CELL];
    if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
    const context = canvas.getContext("2d");
    const pixels = context.createImageData(width, height);
    for (const [i, value] of interpolateGrid(attention).entries()) {
      pixels.data.set([...OVERLAY_COLOR, Math.round(255 * MAX_OPACITY * (1 - value ** GAMMA))], 4 * i);
    }
    context.putImageData(pixels, 0, 0);
  }
}

/** Upsamples a grid to SAMPLES_PER_CELL points a side for each cell, in row-major order. */
function interpolateGrid(grid) {
  const columns = grid[0].map((_, c) => interpolate(grid.map((row) => row[c])));
  return columns[0].flatMap((_, y) => interpolate(columns.map((column) => column[y])));
}

/**
 * Upsamples values with a monotone cubic spline through the cell centres (Fritsch and Butland 1984). It does not
 * overshoot, so that the maximum of the map is the centre of the cell with the largest weight.
 */
function interpolate(values) {
  const last = values.length - 1;
  const slopes = values.map((value, i) => {
    const [before, after] = [value - (values[i - 1] ?? value), (values[i + 1] ?? value) - value];
    return before * after > 0 ? (2 * before * after) / (before + after) : 0;
  });
  return Array.from({ length: values.length * SAMPLES_PER_CELL }, (_, i) => {
    const x = Math.min(Math.max((i + 0.5) / SAMPLES_PER_CELL - 0.5, 0), last);
    const k = Math.min(Math.floor(x), Math.max(last - 1, 0));
    const next = Math.min(k + 1, last);
    const t = x - k;
    const s = 1 - t;
    return s * s * ((1 + 2 * t) * values[k] + t * slopes[k]) + t * t * ((3 - 2 * t) * values[next] - s * slopes[next]);
  });
}

/** The caption as a toolbar of words that can be hovered, focused, pinned and played. */
export class CaptionView {
  #root = byId("words");
  #words = []; // {button, token, weights, facts}
  #explanation = null;
  #overlay;
  #hovered = null; // these three are buttons of words
  #pinned = null;
  #playing = null;
  #timer = 0;

  constructor(overlay) {
    this.#overlay = overlay;
    const buttonOf = (event) => event.target.closest(".word");
    this.#root.addEventListener("pointerover", (event) => {
      // Between two words the last one stays active.
      if (event.pointerType === "mouse" && buttonOf(event)) this.#hover(buttonOf(event));
    });
    this.#root.addEventListener("pointerleave", () => this.#hover(null));
    this.#root.addEventListener("focusin", (event) => this.#focus(buttonOf(event)));
    this.#root.addEventListener("focusout", () => queueMicrotask(() => this.#update()));
    this.#root.addEventListener("click", (event) => buttonOf(event) && this.#togglePin(buttonOf(event)));
    this.#root.addEventListener("keydown", (event) => this.#handleKey(event));
    byId("play").addEventListener("click", () => (this.#playing ? this.#pause() : this.#play()));
  }

  /** Shows a caption of a response with the response's explanation, or none if `caption` is null. */
  show(caption, explanation) {
    this.stop();
    this.#hovered = this.#pinned = null;
    this.#explanation = explanation;
    const probabilities = caption?.token_logprobs.map(Math.exp);
    this.#words = (caption?.words ?? []).map((word, i) => this.#createWord(word, probabilities[i], i));
    this.#root.replaceChildren(...this.#words.flatMap(({ button }) => [button, " "]));
    byId("play").disabled = this.#words.length === 0;
    this.#update();
  }

  /** Stops playback. */
  stop() {
    clearInterval(this.#timer);
    this.#playing = null;
    this.#updatePlayButton();
    this.#update();
  }

  #createWord({ token, weights, entropy, peak }, probability, index) {
    const { rows, columns, picture: size } = this.#explanation;
    const third = (start, length, side) => Math.min(2, Math.floor((3 * (start + length / 2)) / side));
    const region = REGION_NAMES[third(peak.y, peak.height, size.height)][third(peak.x, peak.width, size.width)];
    const numCells = Math.max(1, Math.round(2 ** entropy)); // a uniform distribution over so many has this entropy
    const facts = [
      `probability ${formatPercent(probability)}`,
      `peak at the ${region}`,
      `spread over ${numCells} of ${rows * columns} cells (${entropy.toFixed(1)} bits)`,
    ];
    const button = createElement("button", {
      type: "button",
      className: "word",
      textContent: token,
      tabIndex: index ? -1 : 0,
      "aria-pressed": "false",
      "aria-description": facts.join(", "),
    });
    button.style.setProperty("--probability", probability.toFixed(4));
    button.style.setProperty("--index", index);
    return { button, token, weights, facts };
  }

  #hover(button) {
    this.#hovered = button;
    this.#update();
  }

  #focus(button) {
    for (const word of this.#words) word.button.tabIndex = word.button === button ? 0 : -1;
    this.#update();
  }

  #togglePin(button) {
    if (this.#playing) this.stop();
    this.#pinned = this.#pinned === button ? null : button;
    this.#update();
  }

  #handleKey(event) {
    const last = this.#words.length - 1;
    const index = this.#words.findIndex(({ button }) => button === event.target);
    const targets = { ArrowRight: Math.min(index + 1, last), ArrowLeft: Math.max(index - 1, 0), Home: 0, End: last };
    const target = targets[event.key];
    if (event.key === "Escape" && (this.#pinned || this.#playing)) {
      this.#pinned = null;
      this.stop();
    } else if (target !== undefined && index >= 0) {
      event.preventDefault();
      this.#hovered = null; // the keyboard overrides a mouse at rest until it moves
      if (this.#playing) this.stop();
      this.#words[target].button.focus();
    }
  }

  /** Plays the words one after the other, from the pinned word if there is one. */
  #play() {
    let index = this.#words.findIndex(({ button }) => button === this.#pinned);
    if (index < 0 || index === this.#words.length - 1) index = 0;
    this.#pinned = null;
    const next = () => {
      this.#playing = this.#words[index++]?.button ?? null;
      if (this.#playing) this.#update();
      else this.stop();
    };
    next();
    this.#updatePlayButton();
    this.#timer = setInterval(next, WORD_INTERVAL_MS);
  }

  /** Stops playback and pins the word it has reached. */
  #pause() {
    this.#pinned = this.#playing;
    this.stop();
  }

  #updatePlayButton() {
    byId("play").classList.toggle("playing", this.#playing !== null);
    byId("play").querySelector("span").textContent = this.#playing ? "Pause" : "Play";
  }

  /** Activates the first of: the word played, hovered, focused by keyboard, pinned. */
  #update() {
    const focused = this.#root.querySelector(".word:focus-visible");
    const active = this.#playing ?? this.#hovered ?? focused ?? this.#pinned;
    for (const { button } of this.#words) {
      button.classList.toggle("active", button === active);
      button.setAttribute("aria-pressed", String(button === this.#pinned));
    }
    const word = this.#words.find(({ button }) => button === active);
    this.#overlay.show(word?.weights ?? null);
    byId("word-details").replaceChildren(...(word ? createDetails(word) : [this.#hint()]));
  }

  #hint() {
    if (!this.#words.length) return "";
    return this.#explanation.method === "gradient"
      ? "Select a word to see the regions it depends on. This model has no attention: the maps are gradients."
      : "Select a word to see the regions that the model attended to.";
  }
}

function createDetails({ token, facts }) {
  return [createElement("b", {}, token), ...facts.map((fact) => createElement("span", {}, fact))];
}

function formatPercent(share) {
  if (share < 0.01) return "under 1 %";
  return `${Math.min(99, Math.round(100 * share))} %`;
}

/** Lists the captions of a response if there are several; `onSelect` is called with the selected one. */
export function listAlternatives(captions, onSelect) {
  const root = byId("alternatives");
  root.hidden = captions.length < 2;
  const rows = root.hidden ? [] : captions.map((caption, i) => createAlternative(caption, i === 0, onSelect));
  root.replaceChildren(root.querySelector("legend"), ...rows);
}

function createAlternative(caption, checked, onSelect) {
  const radio = createElement("input", { type: "radio", name: "alternative", checked });
  radio.addEventListener("change", () => onSelect(caption));
  const title = "Mean log-probability of the words";
  const score = createElement("span", { className: "score", title }, caption.score.toFixed(2).replace("-", "−"));
  return createElement("label", {}, radio, createElement("span", {}, caption.caption), score);
}
