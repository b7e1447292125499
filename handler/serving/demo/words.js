import { at, make } from "./page.js";

const PACE = 900; // milliseconds a word while they are played
const PLACES = [
  ["the upper left", "the top", "the upper right"],
  ["the left", "the centre", "the right"],
  ["the lower left", "the bottom", "the lower right"],
];

/** The caption as words that can be pointed at, focused, pinned and played; tells which one is lit. */
export class Words {
  #root = at("words");
  #words = [];
  #explanation = null;
  #heat;
  #hovered = null;
  #pinned = null;
  #playing = null;
  #timer = 0;

  constructor(heat) {
    this.#heat = heat;
    const of = (event) => event.target.closest(".word");
    this.#root.addEventListener("pointerover", (event) => {
      if (event.pointerType === "mouse" && of(event)) this.#hover(of(event)); // between two words the last one stays
    });
    this.#root.addEventListener("pointerleave", () => this.#hover(null));
    this.#root.addEventListener("focusin", (event) => this.#focus(of(event)));
    this.#root.addEventListener("focusout", () => queueMicrotask(() => this.#light()));
    this.#root.addEventListener("click", (event) => of(event) && this.#pin(of(event)));
    this.#root.addEventListener("keydown", (event) => this.#move(event));
    at("play").addEventListener("click", () => (this.#playing ? this.#pause() : this.#play()));
  }

  /** Shows a caption of an answer; none where `caption` is null. */
  show(caption, explanation) {
    this.stop();
    this.#hovered = this.#pinned = null;
    this.#explanation = explanation;
    this.#words = (caption?.words ?? []).map((word, i) => this.#word(word, Math.exp(caption.token_logprobs[i]), i));
    this.#root.replaceChildren(...this.#words.flatMap(({ button }) => [button, " "]));
    at("play").disabled = this.#words.length === 0;
    this.#light();
  }

  stop() {
    clearInterval(this.#timer);
    this.#playing = null;
    this.#labelPlay();
    this.#light();
  }

  #word({ token, weights, entropy, peak }, sure, i) {
    const { rows, columns, picture } = this.#explanation;
    const third = (start, length, side) => Math.min(2, Math.floor((3 * (start + length / 2)) / side));
    const row = PLACES[third(peak.y, peak.height, picture.height)];
    const place = row[third(peak.x, peak.width, picture.width)];
    const cells = Math.max(1, Math.round(2 ** entropy)); // as many, looked at equally, have this entropy
    const spread = `spread over ${cells} of ${rows * columns} cells (${entropy.toFixed(1)} bits)`;
    const facts = [`${percent(sure)} likely`, `most at ${place}`, spread];
    const button = make("button", {
      type: "button",
      className: "word",
      textContent: token,
      tabIndex: i ? -1 : 0,
      "aria-pressed": "false",
      "aria-description": facts.join(", "),
    });
    button.style.setProperty("--sure", sure.toFixed(4));
    button.style.setProperty("--place", i);
    return { button, token, weights, facts };
  }

  #hover(button) {
    this.#hovered = button;
    this.#light();
  }

  #focus(button) {
    for (const word of this.#words) word.button.tabIndex = word.button === button ? 0 : -1;
    this.#light();
  }

  #pin(button) {
    if (this.#playing) this.stop();
    this.#pinned = this.#pinned === button ? null : button;
    this.#light();
  }

  #move(event) {
    const last = this.#words.length - 1;
    const place = this.#words.findIndex(({ button }) => button === event.target);
    const targets = { ArrowRight: Math.min(place + 1, last), ArrowLeft: Math.max(place - 1, 0), Home: 0, End: last };
    const to = targets[event.key];
    if (event.key === "Escape" && (this.#pinned || this.#playing)) {
      this.#pinned = null;
      this.stop();
    } else if (to !== undefined && place >= 0) {
      event.preventDefault();
      this.#hovered = null; // a mouse that rests on a word has no say until it moves
      if (this.#playing) this.stop();
      this.#words[to].button.focus();
    }
  }

  /** Goes on from a pinned word, as a pause leaves one. */
  #play() {
    let place = this.#words.findIndex(({ button }) => button === this.#pinned);
    if (place < 0 || place === this.#words.length - 1) place = 0;
    this.#pinned = null;
    const next = () => {
      this.#playing = this.#words[place++]?.button ?? null;
      if (this.#playing) this.#light();
      else this.stop();
    };
    next();
    this.#labelPlay();
    this.#timer = setInterval(next, PACE);
  }

  #pause() {
    this.#pinned = this.#playing;
    this.stop();
  }

  #labelPlay() {
    at("play").classList.toggle("playing", this.#playing !== null);
    at("play").querySelector("span").textContent = this.#playing ? "Pause" : "Play";
  }

  /** Lights the word that is played, else pointed at, else focused by keyboard, else pinned. */
  #light() {
    const focused = this.#root.querySelector(".word:focus-visible");
    const lit = this.#playing ?? this.#hovered ?? focused ?? this.#pinned;
    for (const { button } of this.#words) {
      button.classList.toggle("lit", button === lit);
      button.setAttribute("aria-pressed", String(button === this.#pinned));
    }
    const word = this.#words.find(({ button }) => button === lit);
    this.#heat.show(word?.weights ?? null);
    at("detail").replaceChildren(...(word ? detail(word) : [this.#invitation()]));
  }

  #invitation() {
    if (!this.#words.length) return "";
    return this.#explanation.method === "gradient"
      ? "Each word shows what it rests on. This model has no attention: its words are traced back by gradients."
      : "Each word shows where the model looked when it said it.";
  }
}

function detail({ token, facts }) {
  return [make("b", {}, token), ...facts.map((fact) => make("span", {}, fact))];
}

function percent(share) {
  if (share < 0.01) return "under 1 %";
  return `${Math.min(99, Math.round(100 * share))} %`;
}
