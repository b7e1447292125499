/** What the server wrote into the page: model, card, options, limits, formats, samples. */
export const endpoint = JSON.parse(document.getElementById("endpoint").textContent);

export const at = (id) => document.getElementById(id);

/** An element with properties, or attributes where it has no such one. All text goes in as text: it is anybody's. */
export function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name in element) element[name] = value;
    else element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

export function link(text, href) {
  return make("a", { href, rel: "noreferrer" }, text);
}

/** Tells screen readers, which do not see what changed. */
export function announce(text) {
  at("status").textContent = text;
}

/** Opens a dialog that its × closes. */
export function openDialog(dialog) {
  dialog.querySelector(".close")?.addEventListener("click", () => dialog.close(), { once: true });
  dialog.showModal();
}
