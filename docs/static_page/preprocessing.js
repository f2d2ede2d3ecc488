/**
 * What a network sees of an image: resized, cut, normalised, exactly as timm does it with Pillow and torchvision.
 *
 * Pillow resizes in fixed-point arithmetic, first rows, then columns, each rounded to 8 bit; canvas.drawImage would
 * differ by several grey levels, and from browser to browser.
 */

const PRECISION_BITS = 22; // of Pillow's coefficients for 8 bit

/** Kernels by name: how far they reach, in pixels of the coarser image, and their weight at a distance. */
const KERNELS = {
  bilinear: { support: 1, weight: (x) => Math.max(1 - Math.abs(x), 0) },
  bicubic: {
    support: 2,
    weight: (x) => {
      const a = -0.5;
      const d = Math.abs(x);
      if (d < 1) return ((a + 2) * d - (a + 3)) * d * d + 1;
      return d < 2 ? (((d - 5) * d + 8) * d - 4) * a : 0;
    },
  },
};

/**
 * Return the network's input, as {data, box}.
 *
 * @param {{data: Uint8ClampedArray, width: number, height: number}} image RGBA, opaque.
 * @param {Object} config What the exported file says: input_size, crop_pct, crop_mode, interpolation, mean, std.
 * @returns {{data: Float32Array, box: number[]}} Normalised values, channel by channel, and left, top, width and height
 *   of what the network sees, in pixels of the image.
 */
export function prepare(image, config) {
  const [channels, height, width] = config.input_size;
  const size = resizedSize(image, config);
  const pixels = resize(toChannels(image, channels), image, size, channels, KERNELS[config.interpolation]);
  const left = roundHalfToEven((size.width - width) / 2);
  const top = roundHalfToEven((size.height - height) / 2);
  const data = new Float32Array(channels * height * width);
  for (let channel = 0, index = 0; channel < channels; channel++) {
    for (let y = 0; y < height; y++) {
      for (let x = 0; x < width; x++, index++) {
        const value = pixels[((y + top) * size.width + x + left) * channels + channel];
        data[index] = (value / 255 - config.mean[channel]) / config.std[channel];
      }
    }
  }
  const across = image.width / size.width;
  const down = image.height / size.height;
  return { data, box: [left * across, top * down, width * across, height * down] };
}

function resizedSize(image, config) {
  const [, height, width] = config.input_size;
  if (config.crop_mode === 'squash') {
    return { width: Math.floor(width / config.crop_pct), height: Math.floor(height / config.crop_pct) };
  }
  const shorter = Math.floor(width / config.crop_pct);
  return image.width <= image.height
    ? { width: shorter, height: Math.floor((shorter * image.height) / image.width) }
    : { width: Math.floor((shorter * image.width) / image.height), height: shorter };
}

/** Return pixels of one grey level or three colours each; the grey level is Pillow's, of ITU-R 601. */
function toChannels(image, channels) {
  const count = image.width * image.height;
  const pixels = new Uint8ClampedArray(count * channels);
  const { data } = image;
  for (let index = 0, source = 0; index < count; index++, source += 4) {
    if (channels === 1) {
      pixels[index] = (19595 * data[source] + 38470 * data[source + 1] + 7471 * data[source + 2] + 0x8000) >> 16;
    } else {
      for (let channel = 0; channel < 3; channel++) pixels[3 * index + channel] = data[source + channel];
    }
  }
  return pixels;
}

function resize(pixels, from, to, channels, kernel) {
  const rows = { lines: from.height, step: channels, stride: from.width * channels };
  const wide = resample(pixels, from.width, to.width, channels, kernel, rows, to.width * channels, channels);
  const columns = { lines: to.width, step: to.width * channels, stride: channels };
  return resample(wide, from.height, to.height, channels, kernel, columns, channels, to.width * channels);
}

/** Return pixels with each line of them at another length; strides are distances between lines, and along one. */
function resample(pixels, from, to, channels, kernel, { lines, step, stride }, stride2, step2) {
  if (from === to) return pixels;
  const weights = coefficients(from, to, kernel);
  const out = new Uint8ClampedArray(lines * to * channels);
  for (let line = 0; line < lines; line++) {
    for (let place = 0; place < to; place++) {
      const { first, values } = weights[place];
      for (let channel = 0; channel < channels; channel++) {
        let sum = 1 << (PRECISION_BITS - 1); // all sums fit 32 bit: weights add up to 2 ** 22, pixels are below 256
        let source = line * stride + first * step + channel;
        for (let index = 0; index < values.length; index++, source += step) {
          sum = (sum + Math.imul(values[index], pixels[source])) | 0;
        }
        out[line * stride2 + place * step2 + channel] = sum >> PRECISION_BITS;
      }
    }
  }
  return out;
}

/** Return, for each place of a line of another length, which pixels it is made of, and their weights as integers. */
function coefficients(from, to, kernel) {
  const scale = from / to;
  const stretch = Math.max(scale, 1); // a line that shrinks is averaged
  const support = kernel.support * stretch;
  return Array.from({ length: to }, (_, place) => {
    const centre = (place + 0.5) * scale;
    const first = Math.max(Math.trunc(centre - support + 0.5), 0);
    const end = Math.min(Math.trunc(centre + support + 0.5), from);
    const raw = Array.from({ length: end - first }, (_, index) => kernel.weight((index + first - centre + 0.5) / stretch));
    const sum = raw.reduce((total, value) => total + value, 0);
    const fixed = (value) => Math.trunc((value / sum) * 2 ** PRECISION_BITS + (value < 0 ? -0.5 : 0.5));
    const values = Int32Array.from(raw, fixed);
    return { first, values };
  });
}

function roundHalfToEven(value) {
  const floor = Math.floor(value);
  if (value - floor !== 0.5) return Math.round(value);
  return floor % 2 === 0 ? floor : floor + 1;
}
