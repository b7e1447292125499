import { Trouble } from "./api.js";
import { endpoint } from "./page.js";

const LONGEST = 1024; // pixels of a side; the model sees far fewer
const QUALITY = 0.92;
const MEGABYTE = 1e6;
const most = endpoint.limits.max_bytes;

/**
 * A file made ready: {name, blob, width, height, shrunk}. Width and height are 0 where the browser can't decode it; it
 * goes out as it is then, as the server may know better, or will say what is wrong.
 */
export async function readPicture(file) {
  if (file.size > 20 * most) throw tooLarge(file); // a film, most likely: it is not even read
  const blob = await intoMemory(file);
  const bitmap = await decode(blob);
  const { width = 0, height = 0 } = bitmap ?? {};
  try {
    const large = Math.max(width, height) > LONGEST;
    const foreign = !endpoint.formats.includes(file.type); // as HEIC, which some browsers know, and the server does not
    if (bitmap && (large || foreign || blob.size > most)) return { name: file.name, ...(await redraw(bitmap)) };
  } finally {
    bitmap?.close();
  }
  if (blob.size > most) throw tooLarge(file);
  return { name: file.name, blob, width, height, shrunk: false };
}

function tooLarge({ size }) {
  const [has, takes] = [size, most].map((bytes) => (bytes / MEGABYTE).toFixed(1));
  return new Trouble(`The file has ${has} MB. The server takes ${takes} MB, and this browser can’t shrink it.`);
}

/** So that it can be sent again, whatever becomes of the file. */
async function intoMemory(file) {
  try {
    // What is no picture goes out as bytes: a text's own type would be refused for the type, not for what it is.
    const type = file.type.startsWith("image/") ? file.type : "application/octet-stream";
    return new Blob([await file.arrayBuffer()], { type });
  } catch {
    throw new Trouble("The file can’t be read.");
  }
}

async function decode(blob) {
  try {
    return await createImageBitmap(blob, { imageOrientation: "from-image" });
  } catch {
    return null;
  }
}

async function redraw(bitmap) {
  const scale = Math.min(1, LONGEST / Math.max(bitmap.width, bitmap.height));
  const [width, height] = [bitmap.width, bitmap.height].map((side) => Math.max(1, Math.round(side * scale)));
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext("2d");
  context.fillStyle = "white"; // behind what is transparent, as the server has it
  context.fillRect(0, 0, width, height);
  context.imageSmoothingQuality = "high";
  context.drawImage(bitmap, 0, 0, width, height);
  const blob = await canvas.convertToBlob({ type: "image/jpeg", quality: QUALITY });
  return { blob, width, height, shrunk: scale < 1 };
}
