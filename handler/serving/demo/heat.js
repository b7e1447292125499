const FINE = 15; // the canvas's pixels a cell, odd so that one is its centre; the browser smooths the rest
const FOG = [112, 114, 120]; // darkness would hide what is dark itself
const THICKEST = 0.8; // over what was not looked at
const FAINT = 0.75; // exponent of the light: below 1, what was looked at a little can be made out
const MILLISECONDS = 220; // from one word to the next
const still = matchMedia("(prefers-reduced-motion: reduce)");

/** A fog over the picture that is clear where a word looked, after the figures of Show, Attend and Tell. */
export class Heat {
  #canvas;
  #light = null; // grid of 0 to 1, as it is drawn now
  #frame = 0;

  constructor(canvas) {
    this.#canvas = canvas;
  }

  /** Moves the light to a word's weights; null gives the picture all light back. */
  show(weights) {
    cancelAnimationFrame(this.#frame);
    const shape = weights ?? this.#light;
    if (!shape) return;
    const brightest = weights && Math.max(...weights.flat());
    const to = shape.map((row) => row.map((weight) => (weights ? weight / brightest : 1)));
    const sameShape = this.#light?.length === to.length && this.#light[0].length === to[0].length;
    const from = sameShape ? this.#light : to.map((row) => row.map(() => 1));
    const began = performance.now();
    const step = (now) => {
      const part = still.matches ? 1 : Math.min(1, Math.max(0, now - began) / MILLISECONDS);
      const eased = part * part * (3 - 2 * part);
      this.#draw(to.map((row, r) => row.map((light, c) => from[r][c] + eased * (light - from[r][c]))));
      if (part < 1) this.#frame = requestAnimationFrame(step);
    };
    step(began);
  }

  /** Takes the fog away at once, as for another picture. */
  clear() {
    cancelAnimationFrame(this.#frame);
    this.#light = null;
    this.#canvas.width = this.#canvas.height = 1;
  }

  #draw(light) {
    this.#light = light;
    const canvas = this.#canvas;
    const [width, height] = [light[0].length * FINE, light.length * FINE];
    if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
    const context = canvas.getContext("2d");
    const image = context.createImageData(width, height);
    smooth(light).forEach((value, i) => {
      image.data.set([...FOG, Math.round(255 * THICKEST * (1 - value ** FAINT))], 4 * i);
    });
    context.putImageData(image, 0, 0);
  }
}

/** A grid at FINE points a cell, row after row: by columns and then by rows. */
function smooth(grid) {
  const tall = grid[0].map((_, c) => stretch(grid.map((row) => row[c])));
  return tall[0].flatMap((_, y) => stretch(tall.map((column) => column[y])));
}

/**
 * Values at FINE points for each, on a monotone cubic through the cells' centres (Fritsch and Butland, 1984). It never
 * overshoots, so that the brightest point of the picture is the centre of the heaviest cell, and nothing else is.
 */
function stretch(values) {
  const last = values.length - 1;
  const slopes = values.map((value, i) => {
    const [before, after] = [value - (values[i - 1] ?? value), (values[i + 1] ?? value) - value];
    return before * after > 0 ? (2 * before * after) / (before + after) : 0;
  });
  return Array.from({ length: values.length * FINE }, (_, i) => {
    const x = Math.min(Math.max((i + 0.5) / FINE - 0.5, 0), last);
    const k = Math.min(Math.floor(x), Math.max(last - 1, 0));
    const next = Math.min(k + 1, last);
    const t = x - k;
    const s = 1 - t;
    return s * s * ((1 + 2 * t) * values[k] + t * slopes[k]) + t * t * ((3 - 2 * t) * values[next] - s * slopes[next]);
  });
}
