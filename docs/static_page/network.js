/** An exported network: from a file to logits and attention map, by onnxruntime-web. */

import { prepare } from './preprocessing.js';

const MOST_PIXELS = 50e6;
const LONGEST_SIDE = 16384; // of a canvas: beyond it Chromium draws nothing, without a word

export class Network {
  /**
   * @param {Object} ort The module of onnxruntime-web.
   * @param {Object} session Of the graph that timm-abn export onnx wrote.
   * @param {Object} config How images are prepared, what the classes are called, samples, colours of maps.
   */
  constructor(ort, session, config) {
    Object.assign(this, { ort, session, config });
  }

  /** Load the network that lies beside this page. */
  static async load() {
    const [model, config] = await Promise.all(['model.onnx', 'model.json'].map(fetchFile));
    const ort = await import('./ort/ort.wasm.min.mjs').catch(() => missing('ort/'));
    ort.env.wasm.wasmPaths = new URL('./ort/', import.meta.url).href;
    ort.env.wasm.numThreads = 1; // threads need headers that static hosts do not send
    const session = await ort.InferenceSession.create(await model.arrayBuffer());
    return new Network(ort, session, await config.json());
  }

  /**
   * Return what the network says of an image.
   *
   * @param {{data: Uint8ClampedArray, width: number, height: number}} image RGBA, opaque.
   * @returns {Promise<Object>} logits; attentionMap, {data, width, height}; box, what the network saw of the image.
   */
  async explain(image) {
    const { data, box } = prepare(image, this.config);
    const images = new this.ort.Tensor('float32', data, [1, ...this.config.input_size]);
    const outputs = await this.session.run({ images });
    const [, , height, width] = outputs.attention_map.dims;
    const attentionMap = { data: outputs.attention_map.data.slice(0, height * width), width, height };
    return { logits: Array.from(outputs.logits.data), attentionMap, box };
  }

  /** Return the most probable classes, as {name, probability}; of one logit these are no and yes. */
  mostProbable(logits, count = 5) {
    return this.probabilities(logits)
      .map((probability, index) => ({ name: this.config.label_names?.[index] ?? `class ${index}`, probability }))
      .sort((one, other) => other.probability - one.probability)
      .slice(0, count);
  }

  /** Return the probabilities that logits stand for: their softmax or sigmoids, as the configuration says. */
  probabilities(logits) {
    if (this.config.probabilities === 'sigmoid') {
      const yes = logits.map((logit) => 1 / (1 + Math.exp(-logit)));
      return yes.length === 1 ? [1 - yes[0], yes[0]] : yes;
    }
    const greatest = Math.max(...logits);
    const exponentials = logits.map((logit) => Math.exp(logit - greatest));
    const sum = exponentials.reduce((total, value) => total + value, 0);
    return exponentials.map((value) => value / sum);
  }
}

/**
 * Return the pixels of an image file, upright, on white where it is transparent.
 *
 * @param {Blob} file
 * @param {string} name For messages.
 */
export async function readImage(file, name) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(file, { imageOrientation: 'from-image', colorSpaceConversion: 'none' });
  } catch {
    throw new Error(`${name} is not an image that this browser can read.`);
  }
  const { width, height } = bitmap;
  if (width * height > MOST_PIXELS || Math.max(width, height) > LONGEST_SIDE) {
    throw new Error(`${name} has ${width} x ${height} pixels; at most 50 megapixels and ${LONGEST_SIDE} a side are read.`);
  }
  const context = new OffscreenCanvas(width, height).getContext('2d', { willReadFrequently: true });
  context.fillStyle = 'white';
  context.fillRect(0, 0, width, height);
  context.drawImage(bitmap, 0, 0);
  return context.getImageData(0, 0, width, height);
}

async function fetchFile(name) {
  const response = await fetch(new URL(name, import.meta.url));
  return response.ok ? response : missing(name);
}

function missing(name) {
  throw new Error(`there is no ${name} beside this page: scripts/docs/make_static_page.py writes it.`);
}
