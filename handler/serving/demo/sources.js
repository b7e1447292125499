import { hasCamera, openCamera, prepareCamera } from "./camera.js";
import { at } from "./page.js";
import { showSamples } from "./samples.js";

/** All ways in which a picture can come; `open` gets the file, and the sample where it is one. */
export function listen(open) {
  showSamples(open);
  chooseFrom(at("choose"), at("file"), open);
  takePhotos(open);
  dropAnywhere(open);
  paste(open);
}

function chooseFrom(button, input, open) {
  button?.addEventListener("click", () => input.click());
  input.addEventListener("change", () => {
    if (input.files.length) open(input.files[0]);
    input.value = ""; // so that the same file can be chosen again
  });
}

function takePhotos(open) {
  prepareCamera();
  chooseFrom(null, at("capture"), open);
  at("photograph").addEventListener("click", async () => {
    if (await hasCamera()) openCamera(open);
    else at("capture").click(); // a phone opens its own camera, wherever the page came from
  });
}

function dropAnywhere(open) {
  const veil = at("veil");
  let depth = 0; // entered elements less left ones
  const hasFiles = (event) => event.dataTransfer?.types.includes("Files");
  addEventListener("dragenter", (event) => {
    if (hasFiles(event) && ++depth) veil.hidden = false;
  });
  addEventListener("dragleave", (event) => {
    if (hasFiles(event) && --depth <= 0) veil.hidden = true;
  });
  addEventListener("dragover", (event) => hasFiles(event) && event.preventDefault());
  addEventListener("drop", (event) => {
    if (!hasFiles(event)) return;
    event.preventDefault();
    depth = 0;
    veil.hidden = true;
    openFirst(event.dataTransfer.files, open);
  });
}

function paste(open) {
  addEventListener("paste", (event) => openFirst(event.clipboardData?.files ?? [], open));
}

/** The first picture of several files; where there is none, the first file, and what is wrong with it will be said. */
function openFirst(files, open) {
  const file = [...files].find(({ type }) => type.startsWith("image/")) ?? files[0];
  if (file) open(file);
}
