import { captionsUrl } from "./api.js";
import { announce } from "./page.js";
import { hasToken } from "./token.js";

/** A button that copies what `text` gives when it is pressed, and says so for a moment. */
export function copies(button, text) {
  const label = button.textContent;
  let timer;
  button.addEventListener("click", async () => {
    const done = await copy(text());
    button.textContent = done ? "copied" : "refused";
    announce(done ? `The ${label} was copied.` : "The browser refused to copy.");
    clearTimeout(timer);
    timer = setTimeout(() => (button.textContent = label), 1600);
  });
}

/** A command that asks the same of the same file. The token is not in it, only where it goes. */
export function curlCommand(file, fields) {
  const options = Object.entries(fields).flatMap(([name, value]) => ["-F", quote(`${name}=${value}`)]);
  const header = hasToken() ? ["-H", '"Authorization: Bearer $TOKEN"'] : [];
  return ["curl", ...header, "-F", quote(`image=@${curlName(file)}`), ...options, quote(captionsUrl)].join(" ");
}

/** For any shell of POSIX's. */
function quote(text) {
  return /^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`;
}

/** curl itself takes `;` and `,` in a form's file name for its own, unless they stand in double quotes. */
function curlName(file) {
  return /[;,"\\]/.test(file) ? `"${file.replace(/["\\]/g, "\\$&")}"` : file;
}

async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    return copyFromField(text);
  }
}

/** Without HTTPS there is no clipboard but this old way. */
function copyFromField(text) {
  const field = document.createElement("textarea");
  const focused = document.activeElement;
  field.value = text;
  field.className = "unseen";
  document.body.append(field);
  field.select();
  const done = document.execCommand("copy");
  field.remove();
  focused?.focus();
  return done;
}
