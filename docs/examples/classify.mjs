// Classify image files with a finished model in Node: ONNX Runtime runs the net, sharp decodes.
//
//     npm install onnxruntime-node sharp
//     node docs/examples/classify.mjs OUT/model PHOTO.jpg ...
//
// Prints CSV, as fixres-predict does. Images are prepared by the module of the demo page, pixel for pixel as in the
// sweep; with another program that is to have these pixels too, take that module along: it imports nothing.

import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { normalised, probabilities, square } from "../../sweeps/demo/preprocess.mjs";

process.env.ORT_DISABLE_TELEMETRY ??= "1"; // before ONNX Runtime is loaded
const { default: ort } = await import("onnxruntime-node");
const { default: sharp } = await import("sharp");

async function settings(folder) {
  const config = JSON.parse(await readFile(join(folder, "config.json"), "utf8"));
  const written = await readFile(join(folder, "MLmodel"), "utf8");
  const data = config.pretrained_cfg;
  const res = data.test_input_size[2];
  const inBytes = (shares) => shares.map((share) => Math.fround(Math.fround(share) * 255));
  return {
    res,
    side: Math.floor(res / data.test_crop_pct),
    cacheSide: Number(/^ *cache_side: (\d+)$/m.exec(written)[1]),
    interpolation: data.interpolation,
    mean: inBytes(data.mean),
    std: inBytes(data.std),
    labels: config.label_names,
    temperature: config.temperature ?? 1,
  };
}

/** Decode a file: upright, in colour, on white where it is transparent. */
async function decoded(file) {
  const upright = sharp(await readFile(file)).autoOrient().flatten({ background: "#fff" });
  // Where a file has a colour profile sharp applies it, unless it is kept; the sweep passes over it.
  const { data, info } = await upright.keepIccProfile().toColourspace("srgb").raw().toBuffer({ resolveWithObject: true });
  return { width: info.width, height: info.height, rgb: data };
}

const [folder, ...files] = process.argv.slice(2);
const model = await settings(folder);
const session = await ort.InferenceSession.create(join(folder, "model.onnx"));
console.log("image,label,probability");
for (const file of files) {
  const pixels = normalised(square(await decoded(file), model), model.res, model);
  const { logits } = await session.run({ pixels: new ort.Tensor("float32", pixels, [1, 3, model.res, model.res]) });
  const shares = probabilities(logits.data, model.temperature);
  const best = shares.indexOf(Math.max(...shares));
  console.log([file, model.labels[best], shares[best].toFixed(6)].join(","));
}
