import { announce, at, openDialog } from "./page.js";

const REFUSED = {
  NotAllowedError: "The browser was not allowed to use the camera.",
  NotReadableError: "The camera is in use by another program.",
};
let stream = null;
let facing = "environment";
let take = null;
let starts = 0;

/** Whether there is a camera that a page may ask for; browsers have none for pages without HTTPS. */
export async function hasCamera() {
  return (await cameras()) > 0;
}

/** Opens the viewfinder; `taken` gets the photo as a file. */
export async function openCamera(taken) {
  take = taken;
  openDialog(at("camera"));
  await start();
  at("turn").hidden = (await cameras()) < 2;
}

export function prepareCamera() {
  at("camera").addEventListener("close", stop);
  at("shutter").addEventListener("click", shoot);
  at("turn").addEventListener("click", () => {
    facing = facing === "environment" ? "user" : "environment";
    start();
  });
}

async function cameras() {
  try {
    return (await navigator.mediaDevices.enumerateDevices()).filter(({ kind }) => kind === "videoinput").length;
  } catch {
    return 0;
  }
}

async function start() {
  stop();
  const mine = ++starts;
  at("camera-trouble").textContent = "";
  try {
    const video = { facingMode: facing, width: { ideal: 1920 } };
    const opened = await navigator.mediaDevices.getUserMedia({ video });
    if (mine !== starts || !at("camera").open) return end(opened); // turned or closed while it was asked for
    stream = opened;
    at("viewfinder").srcObject = stream;
    await at("viewfinder").play();
    at("shutter").disabled = false;
    at("shutter").focus();
  } catch (error) {
    if (at("camera").open) at("camera-trouble").textContent = REFUSED[error.name] ?? "The camera can’t be opened.";
  }
}

function stop() {
  at("shutter").disabled = true;
  if (stream) end(stream);
  stream = at("viewfinder").srcObject = null;
}

function end(opened) {
  for (const track of opened.getTracks()) track.stop();
}

async function shoot() {
  const { videoWidth: width, videoHeight: height } = at("viewfinder");
  const canvas = new OffscreenCanvas(width, height);
  canvas.getContext("2d").drawImage(at("viewfinder"), 0, 0);
  const blob = await canvas.convertToBlob({ type: "image/jpeg", quality: 0.95 });
  at("camera").close();
  announce("Photo taken.");
  take(new File([blob], "photo.jpg", { type: blob.type }));
}
