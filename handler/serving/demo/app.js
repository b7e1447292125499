import { attachCopyButton, curlCommand, explain, UserError } from "./api.js";
import { AttentionOverlay, CaptionView, listAlternatives } from "./caption.js";
import { announce, buildModelCard, byId, createElement, createLink, openDialog, pageData } from "./dom.js";
import { buildOptions, changedOptions, showSeed } from "./options.js";

const MAX_SIDE = 1024; // pixels; larger images are scaled down, as the model uses far fewer
const JPEG_QUALITY = 0.92;
const MAX_READ_FACTOR = 20; // files above so many times the server's limit, such as films, are not even read
const CAMERA_ERRORS = {
  NotAllowedError: "The browser is not allowed to use the camera.",
  NotReadableError: "The camera is in use by another program.",
};
const SAMPLES_DIRECTORY = "handler/serving/demo/samples";
const maxBytes = pageData.max_bytes;
const isNarrow = matchMedia("(max-width: 63.99rem)"); // the options cover part of the page, as in page.css
const main = document.querySelector("main");
const overlay = new AttentionOverlay(byId("overlay"));
const captionView = new CaptionView(overlay);

let requestedImage = null; // the newest image, or a promise of it while it is read
let requestedOptions = ""; // options of the newest request, as JSON
let shownImage = null; // {name, blob, width, height, isScaled, sample}
let shownResult = null; // {response, text, seconds, options}
let shownCaption = null; // one of the captions of shownResult
let controller = new AbortController(); // aborts the newest request

// Request and result

const openFile = (file, sample = null) => submit(readImage(file).then((image) => ({ ...image, sample })));

function resubmitIfChanged() {
  if (requestedImage && JSON.stringify(changedOptions()) !== requestedOptions) submit(requestedImage);
}

/** Captions an image. A request in progress is aborted, so that a late response cannot replace a newer one. */
async function submit(pendingImage) {
  requestedImage = pendingImage;
  controller.abort();
  controller = new AbortController();
  const { signal } = controller;
  byId("error").replaceChildren();
  main.dataset.busy = "";
  announce("Generating the caption…");
  try {
    const image = await pendingImage;
    signal.throwIfAborted();
    // If the browser cannot decode the image, the previous result stays until the server has accepted it.
    if (image !== shownImage && image.width) showImage(image, image);
    const options = changedOptions();
    requestedOptions = JSON.stringify(options);
    const result = await explain(image.blob, options, signal);
    if (image !== shownImage) showImage(image, result.response.explanation.picture);
    showResult({ ...result, options });
  } catch (error) {
    if (signal.aborted) return;
    requestedImage = shownImage;
    showError(error, () => submit(pendingImage));
  }
  delete main.dataset.busy;
}

function showImage(image, size) {
  URL.revokeObjectURL(byId("image").src);
  shownImage = image;
  shownResult = null;
  main.dataset.state = "result";
  byId("result").hidden = false;
  const canDecode = image.width > 0;
  byId("image").hidden = !canDecode;
  byId("no-preview").hidden = canDecode;
  if (canDecode) byId("image").src = URL.createObjectURL(image.blob);
  byId("image").alt = `Image: ${image.sample?.title ?? image.name}`;
  byId("frame").style.setProperty("--width", size.width);
  byId("frame").style.setProperty("--height", size.height);
  byId("credit").replaceChildren(...(image.sample ? createCredit(image.sample) : []));
  overlay.clear();
  showCaption(null);
  listAlternatives([]);
  byId("facts").replaceChildren();
}

function showResult(result) {
  shownResult = result;
  const { response, seconds } = result;
  listAlternatives(response.captions, showCaption);
  showCaption(response.captions[0]);
  const facts = [`${seconds.toFixed(seconds < 10 ? 2 : 0)} s`];
  if (shownImage.isScaled) facts.push(`sent at ${shownImage.width} × ${shownImage.height}`);
  if (response.seed !== undefined) facts.push(`seed ${response.seed}`);
  byId("facts").replaceChildren(...facts.map((fact) => createElement("span", {}, fact)));
  showSeed(response.seed);
  announce(`Caption: ${response.caption}`);
}

function showCaption(caption) {
  shownCaption = caption;
  captionView.show(caption, shownResult?.response.explanation);
  byId("waiting").hidden = caption !== null;
  byId("caption-text").textContent = caption ? caption.caption : "";
  for (const id of ["copy-caption", "copy-json", "copy-curl"]) byId(id).disabled = caption === null;
}

function showError(error, retry) {
  const isExpected = error instanceof UserError;
  if (!isExpected) console.error(error);
  byId("waiting").hidden = true;
  announce("");
  const button = createElement("button", { type: "button" }, "Try again");
  button.addEventListener("click", retry);
  const text = isExpected ? error.message : "An unexpected error occurred in this page.";
  byId("error").replaceChildren(createElement("p", {}, text), ...(!isExpected || error.retryable ? [button] : []));
}

/** Returns the curl command for the result, with the seed it was sampled with. */
function shownCommand() {
  const { response, options } = shownResult;
  const path = shownImage.sample ? `${SAMPLES_DIRECTORY}/${shownImage.name}` : shownImage.name;
  return curlCommand(path, response.seed === undefined ? options : { ...options, seed: response.seed });
}

// Image files

/**
 * Reads a file for sending: {name, blob, width, height, isScaled}. If the browser cannot decode it, width and height
 * are 0 and it is sent unchanged: the server either knows the format or reports what is wrong.
 */
async function readImage(file) {
  if (file.size > MAX_READ_FACTOR * maxBytes) throw fileTooLarge(file);
  const blob = await readBlob(file);
  const bitmap = await decodeImage(blob);
  const { width = 0, height = 0 } = bitmap ?? {};
  try {
    const isLarge = Math.max(width, height) > MAX_SIDE || blob.size > maxBytes;
    const isUnsupported = !pageData.formats.includes(file.type); // by the server; some browsers know HEIC, for example
    if (bitmap && (isLarge || isUnsupported)) return { name: file.name, ...(await encodeJpeg(bitmap)) };
  } finally {
    bitmap?.close();
  }
  if (blob.size > maxBytes) throw fileTooLarge(file);
  return { name: file.name, blob, width, height, isScaled: false };
}

function fileTooLarge({ size }) {
  const [actual, limit] = [size, maxBytes].map((bytes) => (bytes / 1e6).toFixed(1));
  const setting = "max_bytes in model-config.yaml";
  return new UserError(
    `The file has ${actual} MB. The limit is ${limit} MB (${setting}), and this browser cannot scale it down.`,
  );
}

/** Copies a file into memory, so that it can be sent again even if the file changes. */
async function readBlob(file) {
  try {
    // With another type, such as text/plain, the server would complain of the type and not of the content.
    const type = file.type.startsWith("image/") ? file.type : "application/octet-stream";
    return new Blob([await file.arrayBuffer()], { type });
  } catch {
    throw new UserError("The file cannot be read.");
  }
}

async function decodeImage(blob) {
  try {
    return await createImageBitmap(blob, { imageOrientation: "from-image" });
  } catch {
    return null;
  }
}

async function encodeJpeg(bitmap) {
  const scale = Math.min(1, MAX_SIDE / Math.max(bitmap.width, bitmap.height));
  const [width, height] = [bitmap.width, bitmap.height].map((side) => Math.max(1, Math.round(side * scale)));
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext("2d");
  context.fillStyle = "white"; // the server puts transparent images on white, too
  context.fillRect(0, 0, width, height);
  context.imageSmoothingQuality = "high";
  context.drawImage(bitmap, 0, 0, width, height);
  const blob = await canvas.convertToBlob({ type: "image/jpeg", quality: JPEG_QUALITY });
  return { blob, width, height, isScaled: scale < 1 };
}

// Sources of images: samples, file chooser, drag and drop, clipboard, camera

function showSamples() {
  const items = pageData.samples.map((sample) => {
    const src = `data:image/jpeg;base64,${sample.base64}`;
    const thumbnail = createElement("img", { src, alt: sample.title, width: 120, height: 120 });
    const title = `${sample.title}, by ${sample.author}`;
    const button = createElement("button", { type: "button", title }, thumbnail);
    button.addEventListener("click", () => openFile(sampleFile(sample), sample));
    return createElement("li", {}, button);
  });
  byId("samples").append(...items);
  const credits = pageData.samples.map((sample) => createCredit(sample, sample.title.toLowerCase()));
  const separated = credits.flatMap((credit, i) => (i ? ["; ", ...credit] : credit));
  byId("credits").append("Sample photos (reduced in size): ", ...separated, ".");
}

/** Returns the author and the licence of a photo as nodes. */
function createCredit({ source, author, licence, licence_url: licenceUrl }, title = "Photo") {
  return [createLink(title, source), ` by ${author}, `, createLink(licence, licenceUrl)];
}

/** Decodes by hand: the content security policy does not allow fetching a data URL. */
function sampleFile({ file, base64 }) {
  const bytes = Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
  return new File([bytes], file, { type: "image/jpeg" });
}

function acceptFiles() {
  for (const input of [byId("file-input"), byId("capture-input")]) {
    input.addEventListener("change", () => {
      openFirstImage(input.files);
      input.value = ""; // otherwise choosing the same file again is no change
    });
  }
  byId("choose-image").addEventListener("click", () => byId("file-input").click());
  addEventListener("paste", (event) => openFirstImage(event.clipboardData?.files ?? []));
}

function acceptDrops() {
  let depth = 0; // elements entered minus elements left
  const setDepth = (value) => {
    depth = value;
    byId("drop-hint").hidden = depth <= 0;
  };
  const onFiles = (type, handle) =>
    addEventListener(type, (event) => {
      if (event.dataTransfer?.types.includes("Files")) handle(event);
    });
  onFiles("dragenter", () => setDepth(depth + 1));
  onFiles("dragleave", () => setDepth(depth - 1));
  onFiles("dragover", (event) => event.preventDefault());
  onFiles("drop", (event) => {
    event.preventDefault();
    setDepth(0);
    openFirstImage(event.dataTransfer.files);
  });
}

/** Opens the first image, or if there is none the first file, so that the user is told what is wrong with it. */
function openFirstImage(files) {
  const file = [...files].find(({ type }) => type.startsWith("image/")) ?? files[0];
  if (file) openFile(file);
}

let stream = null; // of the camera
let facingMode = "environment";
let numStarts = 0; // of the camera; only the last one counts

function prepareCamera() {
  byId("camera").addEventListener("close", stopCamera);
  byId("shutter").addEventListener("click", capturePhoto);
  byId("switch-camera").addEventListener("click", () => {
    facingMode = facingMode === "environment" ? "user" : "environment";
    startCamera();
  });
  byId("take-photo").addEventListener("click", openCamera);
}

/** Opens the camera dialog. Without HTTPS a page gets no camera; a phone then opens its camera app instead. */
async function openCamera() {
  if ((await countCameras()) === 0) {
    byId("capture-input").click();
    return;
  }
  openDialog(byId("camera"));
  await startCamera();
  byId("switch-camera").hidden = (await countCameras()) < 2;
}

async function countCameras() {
  try {
    return (await navigator.mediaDevices.enumerateDevices()).filter(({ kind }) => kind === "videoinput").length;
  } catch {
    return 0;
  }
}

async function startCamera() {
  stopCamera();
  numStarts += 1;
  const start = numStarts;
  byId("camera-error").textContent = "";
  try {
    const video = { facingMode, width: { ideal: 1920 } };
    const opened = await navigator.mediaDevices.getUserMedia({ video });
    if (start !== numStarts || !byId("camera").open) {
      stopTracks(opened); // switched or closed in the meantime
      return;
    }
    stream = opened;
    byId("camera-preview").srcObject = stream;
    await byId("camera-preview").play();
    byId("shutter").disabled = false;
    byId("shutter").focus();
  } catch (error) {
    const message = CAMERA_ERRORS[error.name] ?? "The camera cannot be opened.";
    if (byId("camera").open) byId("camera-error").textContent = message;
  }
}

function stopCamera() {
  byId("shutter").disabled = true;
  if (stream) stopTracks(stream);
  stream = null;
  byId("camera-preview").srcObject = null;
}

function stopTracks(opened) {
  for (const track of opened.getTracks()) track.stop();
}

async function capturePhoto() {
  const { videoWidth: width, videoHeight: height } = byId("camera-preview");
  const canvas = new OffscreenCanvas(width, height);
  canvas.getContext("2d").drawImage(byId("camera-preview"), 0, 0);
  const blob = await canvas.convertToBlob({ type: "image/jpeg", quality: 0.95 });
  byId("camera").close();
  announce("Photo taken.");
  openFile(new File([blob], "photo.jpg", { type: blob.type }));
}

// Start

function toggleOptions(isVisible) {
  byId("options").hidden = !isVisible;
  byId("open-options").setAttribute("aria-expanded", String(isVisible));
  (isVisible ? byId("options-heading") : byId("open-options")).focus();
  if (isVisible && isNarrow.matches) byId("result").scrollIntoView();
}

byId("name").textContent = pageData.model.name;
document.title = pageData.model.name;
byId("open-options").addEventListener("click", () => toggleOptions(byId("options").hidden));
byId("close-options").addEventListener("click", () => toggleOptions(false));
byId("options").addEventListener("keydown", (event) => event.key === "Escape" && toggleOptions(false));
attachCopyButton(byId("copy-caption"), () => shownCaption.caption);
attachCopyButton(byId("copy-json"), () => shownResult.text);
attachCopyButton(byId("copy-curl"), shownCommand);
buildModelCard();
buildOptions(resubmitIfChanged);
showSamples();
acceptFiles();
acceptDrops();
prepareCamera();
