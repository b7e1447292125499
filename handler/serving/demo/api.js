import { isRefused, withToken } from "./token.js";

/** An error to be shown as it is. `passing`: the same request may do better later. */
export class Trouble extends Error {
  constructor(message, passing = false) {
    super(message);
    this.passing = passing;
  }
}

/** Where this page was fetched from: captions. Beside it, whatever stands before both in the path, explanations. */
export const captionsUrl = location.origin + location.pathname;
const explanationsUrl = captionsUrl.replace(/\/predictions\/([^/]+(?:\/[^/]+)?\/?)$/, "/explanations/$1");

/**
 * A picture's captions with what each word rests on.
 * Gives {answer, text, seconds}: the JSON, as it came, and how long it took.
 */
export async function explain(picture, fields, signal) {
  const form = new FormData();
  form.append("image", picture, "picture"); // its own name is nobody's business
  for (const [name, value] of Object.entries(fields)) form.append(name, value);
  let began;
  const { status, body, text } = await withToken((headers) => {
    began = performance.now();
    return post(form, headers, signal);
  });
  signal.throwIfAborted();
  const seconds = (performance.now() - began) / 1000;
  if (status === 200 && body?.captions) return { answer: body, text, seconds };
  throw describe(status, body);
}

async function post(body, headers, signal) {
  try {
    const response = await fetch(explanationsUrl, { method: "POST", body, headers, signal });
    const text = await response.text();
    return { status: response.status, body: parse(text), text };
  } catch (error) {
    signal.throwIfAborted();
    throw new Trouble("The server can’t be reached: it is down, or the network is.", true);
  }
}

function parse(text) {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}

function describe(status, body) {
  if (isRefused({ status, body })) return new Trouble("This server answers only with a token.", true);
  if (status === 503) return new Trouble("The server is busy: its queue is full. Try again in a moment.", true);
  if (body?.message) return new Trouble(body.message, status >= 500);
  if (status === 413) return new Trouble("The file is larger than the server takes.");
  return new Trouble(`The server gave no answer that this page can read (${status}).`, true);
}
