// The page: takes an image, has it prepared and classified here, and shows the likeliest classes.

import * as ort from "./ort/ort.wasm.min.mjs";
import { normalised, probabilities, square, withoutAlpha } from "./preprocess.mjs";

const SHOWN = 5;
const part = Object.fromEntries(
  ["page", "about", "file", "status", "invitation", "answer", "given", "given-words", "seen", "seen-words", "best", "bars", "spent"].map(
    (id) => [id, document.getElementById(id)],
  ),
);
let model;
let session;
let latest = 0; // number of the image that was given last: an answer to an earlier one is not shown

function say(state, words) {
  part.page.dataset.state = state;
  part.status.textContent = words;
}

async function load() {
  model = await fetched("model.json", (answer) => answer.json());
  const { res, labels, onnxBytes, name } = model;
  part.about.textContent = `${name}, at ${res} px; ${labels.length} classes; ${(onnxBytes / 1e6).toFixed(1)} MB.`;
  ort.env.wasm.wasmPaths = new URL("ort/", document.baseURI).href;
  const file = await fetched("model.onnx", (answer) => answer.arrayBuffer());
  session = await ort.InferenceSession.create(file, { executionProviders: ["wasm"] });
  await run(new Float32Array(3 * res * res)); // the first run allocates
  part.file.disabled = false;
  say("ready", "");
}

async function fetched(address, read) {
  const answer = await fetch(address);
  if (!answer.ok) throw new Error(`${address}: ${answer.status}`);
  return read(answer);
}

/** Classify a file, and show what came of it. */
async function classify(file) {
  const number = ++latest;
  say("busy", `Classifying ${file.name} ...`);
  try {
    const image = await decoded(file);
    const began = performance.now();
    const pixels = square(image, model);
    const prepared = performance.now();
    const logits = await run(normalised(pixels, model.res, model));
    const spent = { prepare: prepared - began, run: performance.now() - prepared };
    if (number === latest) show(file, image, pixels, probabilities(logits, model.temperature), spent);
  } catch (error) {
    if (number === latest) say("failed", `${file.name} cannot be classified: ${error.message}`);
  }
}

/** Give the logits of an image, normalised, channel by channel. */
async function run(pixels) {
  const tensor = new ort.Tensor("float32", pixels, [1, 3, model.res, model.res]);
  const { logits } = await session.run({ pixels: tensor });
  return logits.data;
}

/** Decode a file into RGB pixels: upright, on white where it is transparent, whatever its colour profile. */
async function decoded(file) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(file, { colorSpaceConversion: "none" });
  } catch {
    throw new Error("it is no image that this browser reads.");
  }
  const { width, height } = bitmap;
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  if (context === null) throw new Error(`${inPixels(width, height)} are too many for this browser.`);
  context.fillStyle = "#fff";
  context.fillRect(0, 0, width, height);
  context.drawImage(bitmap, 0, 0);
  bitmap.close();
  return { width, height, rgb: withoutAlpha(context.getImageData(0, 0, width, height).data) };
}

function show(file, image, pixels, shares, spent) {
  const address = URL.createObjectURL(file);
  part.given.onload = () => URL.revokeObjectURL(address);
  part.given.src = address;
  part["given-words"].textContent = `${file.name}, ${inPixels(image.width, image.height)}`;
  draw(pixels, model.res);
  part["seen-words"].textContent = `What the net sees: ${inPixels(model.res, model.res)}`;
  const order = shares.map((_, k) => k).sort((a, b) => shares[b] - shares[a] || a - b);
  const shown = order.slice(0, SHOWN);
  part.best.textContent = model.labels[shown[0]];
  part.bars.replaceChildren(...shown.map((k) => bar(model.labels[k], shares[k])));
  part.spent.textContent = `${spent.prepare.toFixed(0)} ms to prepare the image, ${spent.run.toFixed(0)} ms in the net.`;
  part.answer.hidden = false;
  part.invitation.textContent = "Drop another image here";
  say("done", "");
}

function inPixels(width, height) {
  return `${width}\u00a0×\u00a0${height}\u00a0px`; // never broken into lines
}

function bar(label, share) {
  const line = document.createElement("li");
  const name = document.createElement("span");
  const percent = document.createElement("span");
  const length = document.createElement("progress");
  name.className = "name";
  name.textContent = label;
  percent.className = "percent";
  percent.textContent = share < 0.0005 ? "< 0.1 %" : `${(100 * share).toFixed(1)} %`;
  length.value = share;
  length.setAttribute("aria-label", label);
  line.dataset.probability = share;
  line.append(name, percent, length);
  return line;
}

function draw(rgb, res) {
  part.seen.width = part.seen.height = res;
  const context = part.seen.getContext("2d");
  const picture = context.createImageData(res, res);
  for (let i = 0; i < res * res; i++) {
    picture.data.set([rgb[3 * i], rgb[3 * i + 1], rgb[3 * i + 2], 255], 4 * i);
  }
  context.putImageData(picture, 0, 0);
}

function take(files) {
  if (session === undefined) return;
  const [file] = files;
  if (file !== undefined) classify(file);
}

part.file.addEventListener("change", () => {
  take(part.file.files);
  part.file.value = ""; // so that the same file can be chosen again
});
// The whole page takes what is dropped: beside the field a browser would leave the page for the image.
for (const kind of ["dragenter", "dragover", "dragleave", "drop"]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    part.page.classList.toggle("over", kind === "dragenter" || kind === "dragover");
    if (kind === "drop") take(event.dataTransfer.files);
  });
}
document.addEventListener("paste", (event) => take(event.clipboardData.files));

load().catch((error) => say("failed", `The model cannot be loaded: ${error.message}`));
