// Prepare images as the sweep prepared them, pixel for pixel: what a canvas resizes is not what the net was tested on.
//
// Images are RGB, three bytes a pixel, row by row. `model` is what settings.py writes.

const PRECISION_BITS = 22; // of Pillow's coefficients: a sum of 255 times all of them fits into 32 bits

const KERNELS = {
  bilinear: { support: 1, weight: (x) => Math.max(0, 1 - Math.abs(x)) },
  // Catmull and Rom's: a = -0.5.
  bicubic: {
    support: 2,
    weight: (x) => {
      const a = -0.5;
      const t = Math.abs(x);
      if (t < 1) return ((a + 2) * t - (a + 3)) * t * t + 1;
      return t < 2 ? (((t - 5) * t + 8) * t - 4) * a : 0;
    },
  },
  lanczos: { support: 3, weight: (x) => (-3 <= x && x < 3 ? sinc(x) * sinc(x / 3) : 0) },
};

function sinc(x) {
  return x === 0 ? 1 : Math.sin(x * Math.PI) / (x * Math.PI);
}

/** Drop the alpha of RGBA pixels, which are opaque. */
export function withoutAlpha(rgba) {
  const rgb = new Uint8Array((rgba.length / 4) * 3);
  for (let i = 0, j = 0; i < rgba.length; i += 4) {
    rgb[j++] = rgba[i];
    rgb[j++] = rgba[i + 1];
    rgb[j++] = rgba[i + 2];
  }
  return rgb;
}

/** Prepare an image for the net: the centre crop of what is resized, model.res px wide and high. */
export function square(image, model) {
  const reduced = reduce(image, model.cacheSide);
  const { width, height } = reduced;
  const long = Math.trunc((model.side * Math.max(width, height)) / Math.min(width, height));
  const size = width <= height ? [model.side, long] : [long, model.side];
  const left = roundHalfEven((size[0] - model.res) / 2);
  const top = roundHalfEven((size[1] - model.res) / 2);
  return resizedPart(reduced, size, [left, top, model.res, model.res], KERNELS[model.interpolation]);
}

/** Reduce an image whose short side is longer than `side` px, as the sweep's cache of images does. */
function reduce(image, side) {
  const short = Math.min(image.width, image.height);
  if (short <= side) return image;
  const size = [image.width, image.height].map((edge) => Math.max(1, roundHalfEven((edge * side) / short)));
  return { width: size[0], height: size[1], rgb: resizedPart(image, size, [0, 0, ...size], KERNELS.lanczos) };
}

/** Normalise a square of side `res`: float32, channel by channel, as the net takes it. */
export function normalised(rgb, res, model) {
  const pixels = new Float32Array(3 * res * res);
  for (let channel = 0; channel < 3; channel++) {
    for (let i = 0; i < res * res; i++) {
      // Rounded to float32 after each step, as NumPy does.
      const centred = Math.fround(rgb[3 * i + channel] - model.mean[channel]);
      pixels[channel * res * res + i] = centred / model.std[channel];
    }
  }
  return pixels;
}

/** Make probabilities of logits, over the temperature that was fitted on val. */
export function probabilities(logits, temperature) {
  const largest = Math.max(...logits);
  const odds = Array.from(logits, (logit) => Math.exp((logit - largest) / temperature));
  const total = odds.reduce((sum, one) => sum + one, 0);
  return odds.map((one) => one / total);
}

/**
 * Resize as Image.resize of Pillow 13 does, with its rounding, but make only a part of the result.
 *
 * Two passes, with whole numbers as coefficients and bytes in between. What lies outside of the resized image is black.
 *
 * @param size width and height to resize to, px.
 * @param part left, top, width and height of what is wanted of it, px.
 */
export function resizedPart(image, size, part, kernel) {
  const [left, top, width, height] = part;
  const columns = taps(image.width, size[0], left, width, kernel);
  const rows = taps(image.height, size[1], top, height, kernel);
  const needed = cut(image, columns, rows);
  if (needed === null) return new Uint8Array(3 * width * height);
  // Pillow's order, which decides on what is rounded in between.
  const lower = image.height - size[1];
  const rowsFirst = lower > 0 && lower > 2 * (image.width - size[0]);
  if (rowsFirst) return acrossColumns(acrossRows(needed, rows), columns).rgb;
  return acrossRows(acrossColumns(needed, columns), rows).rgb;
}

/** Cut out what the new pixels are made of, and count their taps from there; null: there are none. */
function cut(image, columns, rows) {
  const [left, right] = range(columns);
  const [top, bottom] = range(rows);
  if (left >= right || top >= bottom) return null;
  for (const tap of columns) if (tap !== null) tap.start -= left;
  for (const tap of rows) if (tap !== null) tap.start -= top;
  const width = right - left;
  const rgb = new Uint8Array(3 * width * (bottom - top));
  for (let y = top; y < bottom; y++) {
    const begin = 3 * (y * image.width + left);
    rgb.set(image.rgb.subarray(begin, begin + 3 * width), 3 * (y - top) * width);
  }
  return { width, height: bottom - top, rgb };
}

function range(taps) {
  const inside = taps.filter((tap) => tap !== null);
  return [
    Math.min(...inside.map((tap) => tap.start)),
    Math.max(...inside.map((tap) => tap.start + tap.weights.length)),
  ];
}

function acrossColumns(image, columns) {
  const width = columns.length;
  const rgb = new Uint8Array(3 * width * image.height);
  for (let y = 0; y < image.height; y++) {
    columns.forEach((tap, x) => {
      if (tap !== null) addUp(image.rgb, 3 * (y * image.width + tap.start), 3, tap.weights, rgb, 3 * (y * width + x));
    });
  }
  return { width, height: image.height, rgb };
}

function acrossRows(image, rows) {
  const { width } = image;
  const rgb = new Uint8Array(3 * width * rows.length);
  rows.forEach((tap, y) => {
    if (tap === null) return;
    for (let x = 0; x < width; x++) {
      addUp(image.rgb, 3 * (tap.start * width + x), 3 * width, tap.weights, rgb, 3 * (y * width + x));
    }
  });
  return { width, height: rows.length, rgb };
}

/** Add up pixels that are `step` bytes apart, by their weights, into one. */
function addUp(from, at, step, weights, to, where) {
  let red = 1 << (PRECISION_BITS - 1);
  let green = red;
  let blue = red;
  for (let i = 0; i < weights.length; i++, at += step) {
    red += from[at] * weights[i];
    green += from[at + 1] * weights[i];
    blue += from[at + 2] * weights[i];
  }
  to[where] = clipped(red);
  to[where + 1] = clipped(green);
  to[where + 2] = clipped(blue);
}

function clipped(sum) {
  return Math.min(255, Math.max(0, sum >> PRECISION_BITS));
}

/** List which old pixels each of `count` new ones is made of, from `begin` on, and their weights; null: outside. */
function taps(oldSize, newSize, begin, count, kernel) {
  if (oldSize === newSize) kernel = { support: 0.5, weight: () => 1 }; // Pillow leaves such a side as it is
  const scale = oldSize / newSize;
  const stretch = Math.max(scale, 1);
  const support = kernel.support * stretch;
  return Array.from({ length: count }, (_, i) => {
    const index = begin + i;
    if (index < 0 || index >= newSize) return null;
    const centre = (index + 0.5) * scale;
    const start = Math.max(0, Math.trunc(centre - support + 0.5));
    const end = Math.min(oldSize, Math.trunc(centre + support + 0.5));
    const exact = Array.from({ length: end - start }, (_, x) =>
      kernel.weight((x + start - centre + 0.5) * (1 / stretch)),
    );
    const total = exact.reduce((sum, one) => sum + one, 0);
    const weights = exact.map((one) => {
      const share = (total === 0 ? one : one / total) * 2 ** PRECISION_BITS;
      return Math.trunc(share < 0 ? share - 0.5 : share + 0.5);
    });
    return { start, weights: Int32Array.from(weights) };
  });
}

/** Round as Python does: halves to the even neighbour. */
function roundHalfEven(value) {
  const below = Math.floor(value);
  const rest = value - below;
  if (rest !== 0.5) return Math.round(value);
  return below % 2 === 0 ? below : below + 1;
}
