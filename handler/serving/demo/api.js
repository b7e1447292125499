import { announce, byId } from "./dom.js";

/** An error whose message is shown to the user. `retryable`: the same request may succeed later. */
export class UserError extends Error {
  constructor(message, retryable = false) {
    super(message);
    this.retryable = retryable;
  }
}

/** POST to the address of this page returns captions; the same path below /explanations explains them, too. */
const captionsUrl = location.origin + location.pathname;
const explanationsUrl = captionsUrl.replace(/\/predictions\/([^/]+(?:\/[^/]+)?\/?)$/, "/explanations/$1");

/**
 * Requests captions of an image and an attention map for each word.
 * Returns {response, text, seconds}: the parsed and the raw JSON, and the duration of the request.
 */
export async function explain(image, options, signal) {
  const form = new FormData();
  form.append("image", image, "image"); // the name of the user's file is not sent
  for (const [name, value] of Object.entries(options)) form.append(name, value);
  let start;
  const { status, body, text } = await sendWithToken((headers) => {
    start = performance.now();
    return post(form, headers, signal);
  });
  signal.throwIfAborted();
  const seconds = (performance.now() - start) / 1000;
  if (status === 200 && body?.captions) return { response: body, text, seconds };
  throw toUserError(status, body, image.size);
}

async function post(form, headers, signal) {
  try {
    const response = await fetch(explanationsUrl, { method: "POST", body: form, headers, signal });
    const text = await response.text();
    return { status: response.status, body: parseJson(text), text };
  } catch {
    signal.throwIfAborted();
    throw new UserError("The server cannot be reached. Check the network and that the server is running.", true);
  }
}

function parseJson(text) {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}

function toUserError(status, body, size) {
  if (isUnauthorized({ status, body })) return new UserError("This server requires a token.", true);
  if (status === 503) return new UserError("The server is busy: its queue is full. Try again in a moment.", true);
  if (body?.message) return new UserError(body.message, status >= 500);
  if (status === 413) {
    const limit = "the server or a proxy before it accepts (max_request_size of TorchServe, 40 MB as shipped)";
    return new UserError(`The file has ${(size / 1e6).toFixed(1)} MB, more than ${limit}. Send a smaller one.`);
  }
  return new UserError(`The server sent a response that this page cannot read (${status}).`, true);
}

let token = ""; // in memory only

/**
 * Sends a request with the token, and asks the user for a token as long as the server refuses.
 * `send` takes headers and returns {status, body}. If the user cancels, the refusal is returned.
 */
async function sendWithToken(send) {
  for (;;) {
    const response = await send(token ? { Authorization: `Bearer ${token}` } : {});
    if (!isUnauthorized(response)) return response;
    token = await askForToken(token !== "");
    if (!token) return response;
  }
}

/** TorchServe responds with 400 if a token is missing, wrong or expired; a proxy before it with 401 or 403. */
function isUnauthorized({ status, body }) {
  return status === 401 || status === 403 || (status === 400 && body?.type === "InvalidKeyException");
}

/** Resolves to the token that the user enters, or to "" if the user cancels. */
function askForToken(isRetry) {
  const [dialog, field] = [byId("token"), byId("token-field")];
  byId("token-reason").textContent = isRetry
    ? "The server refused the token: it is wrong or has expired."
    : "This server requires a token. TorchServe writes it to key_file.json.";
  dialog.classList.toggle("refused", isRetry);
  dialog.showModal();
  return new Promise((resolve) => {
    let entered = "";
    dialog.querySelector("form").onsubmit = (event) => {
      event.preventDefault();
      entered = field.value.trim();
      dialog.close();
    };
    byId("token-cancel").onclick = () => dialog.close();
    dialog.onclose = () => {
      field.value = "";
      resolve(entered);
    };
  });
}

/** Makes a button copy the result of `getText`, and confirm it in its label for a moment. */
export function attachCopyButton(button, getText) {
  const label = button.textContent;
  let timer;
  button.addEventListener("click", async () => {
    const isCopied = await copyText(getText());
    button.textContent = isCopied ? "copied" : "failed";
    announce(isCopied ? `Copied: ${label}.` : "The browser does not allow copying.");
    clearTimeout(timer);
    timer = setTimeout(() => {
      button.textContent = label;
    }, 1600);
  });
}

/** Returns the curl command for the same request. It names the variable TOKEN in place of the token. */
export function curlCommand(path, options) {
  const fields = Object.entries(options).flatMap(([name, value]) => ["-F", quoteForShell(`${name}=${value}`)]);
  const header = token ? ["-H", '"Authorization: Bearer $TOKEN"'] : [];
  const image = quoteForShell(`image=@${quoteForCurl(path)}`);
  return ["curl", ...header, "-F", image, ...fields, quoteForShell(captionsUrl)].join(" ");
}

/** Quotes an argument for POSIX shells. */
function quoteForShell(text) {
  return /^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`;
}

/** Quotes a file name for curl, which gives `;` and `,` in a form field a meaning of their own. */
function quoteForCurl(path) {
  return /[;,"\\]/.test(path) ? `"${path.replace(/["\\]/g, "\\$&")}"` : path;
}

async function copyText(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    return copyWithCommand(text);
  }
}

/** Copies without the clipboard API, which browsers offer to HTTPS pages only. */
function copyWithCommand(text) {
  const field = document.createElement("textarea");
  const focused = document.activeElement;
  field.value = text;
  field.className = "visually-hidden";
  document.body.append(field);
  field.select();
  const isCopied = document.execCommand("copy");
  field.remove();
  focused?.focus();
  return isCopied;
}
