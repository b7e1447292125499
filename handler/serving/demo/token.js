import { at } from "./page.js";

let token = ""; // nowhere but here: it goes with the page

/**
 * Calls with the token; where the server wants one, or another one, asks for it and calls again.
 * `call` takes headers and gives {status, body}. The last answer is given back where nobody has a token.
 */
export async function withToken(call) {
  for (;;) {
    const answer = await call(token ? { Authorization: `Bearer ${token}` } : {});
    if (!isRefused(answer)) return answer;
    const given = await askForToken(token !== "");
    token = given;
    if (!given) return answer;
  }
}

export const hasToken = () => token !== "";

/** TorchServe answers 400 where a token is missing, wrong or expired; what may stand before it, 401 or 403. */
export function isRefused({ status, body }) {
  return status === 401 || status === 403 || (status === 400 && body?.type === "InvalidKeyException");
}

function askForToken(again) {
  const [dialog, field] = [at("token"), at("token-field")];
  at("token-reason").textContent = again
    ? "The server did not take that token: it is wrong or has expired."
    : "This server answers only with a token. TorchServe writes it to key_file.json.";
  dialog.classList.toggle("refused", again);
  dialog.showModal();
  return new Promise((resolve) => {
    let given = "";
    dialog.querySelector("form").onsubmit = (event) => {
      event.preventDefault();
      given = field.value.trim();
      dialog.close();
    };
    at("token-cancel").onclick = () => dialog.close();
    dialog.onclose = () => {
      field.value = "";
      resolve(given);
    };
  });
}
