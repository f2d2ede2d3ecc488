/** The page: images in, classes and overlay out. */

import { Network, readImage } from './network.js';

const SIDE = 448; // pixels of the drawing

const element = (id) => document.getElementById(id);
let shown = null; // what the slider draws again
let latest = 0; // of several images asked for in a hurry, the last one counts

function say(text, isError = false) {
  element('message').textContent = text;
  element('message').classList.toggle('error', isError);
}

async function explain(network, file, name) {
  const own = ++latest;
  try {
    say('');
    const image = await readImage(file, name);
    const result = await network.explain(image);
    if (own !== latest) return;
    shown = { image, colours: network.config.colours, ...result };
    draw();
    element('classes').replaceChildren(...network.mostProbable(result.logits).map(entry));
    element('result').hidden = false;
  } catch (error) {
    if (own !== latest) return;
    element('result').hidden = true;
    say(error.message, true);
  }
}

function entry({ name, probability }) {
  const item = document.createElement('li');
  const bar = document.createElement('meter');
  bar.value = probability;
  item.append(`${name}: ${(100 * probability).toFixed(1)} %`, bar);
  return item;
}

/** Draw what the network saw of the image, and its map over it in colour. */
function draw() {
  const { image, attentionMap, box, colours } = shown;
  const canvas = element('overlay');
  canvas.width = SIDE;
  canvas.height = Math.round((SIDE * box[3]) / box[2]);
  const context = canvas.getContext('2d', { willReadFrequently: true });
  const whole = new OffscreenCanvas(image.width, image.height);
  whole.getContext('2d').putImageData(image, 0, 0);
  context.drawImage(whole, ...box, 0, 0, canvas.width, canvas.height);
  const pixels = context.getImageData(0, 0, canvas.width, canvas.height);
  const [low, high] = [Math.min(...attentionMap.data), Math.max(...attentionMap.data)];
  const opacity = Number(element('opacity').value);
  for (let y = 0, index = 0; y < canvas.height; y++) {
    for (let x = 0; x < canvas.width; x++, index += 4) {
      const value = at(attentionMap, (x + 0.5) / canvas.width, (y + 0.5) / canvas.height);
      const colour = colours[high > low ? Math.round((255 * (value - low)) / (high - low)) : 0];
      for (let channel = 0; channel < 3; channel++) {
        pixels.data[index + channel] += opacity * (colour[channel] - pixels.data[index + channel]);
      }
    }
  }
  context.putImageData(pixels, 0, 0);
  element('range').textContent = `${attentionMap.width} x ${attentionMap.height} positions, from ${low.toFixed(2)} to ${high.toFixed(2)}`;
}

/** Return a map between its places, by bilinear interpolation; x and y are shares of width and height. */
function at({ data, width, height }, x, y) {
  const [column, row] = [clamp(x * width - 0.5, width - 1), clamp(y * height - 0.5, height - 1)];
  const [left, top] = [Math.floor(column), Math.floor(row)];
  const [right, bottom] = [Math.min(left + 1, width - 1), Math.min(top + 1, height - 1)];
  const mix = (one, other, share) => one + (other - one) * share;
  return mix(
    mix(data[top * width + left], data[top * width + right], column - left),
    mix(data[bottom * width + left], data[bottom * width + right], column - left),
    row - top,
  );
}

const clamp = (value, most) => Math.min(Math.max(value, 0), most);

function addSample(network, name) {
  const button = document.createElement('button');
  const picture = new Image();
  picture.src = `samples/${name.split('/').map(encodeURIComponent).join('/')}`;
  picture.alt = name;
  button.title = name;
  button.append(picture);
  button.addEventListener('click', async () => {
    for (const other of element('samples').children) other.setAttribute('aria-pressed', other === button);
    await explain(network, await (await fetch(picture.src)).blob(), name);
  });
  element('samples').append(button);
}

function takeFiles(network, files) {
  if (files.length) explain(network, files[0], files[0].name);
}

async function start() {
  let network;
  try {
    network = await Network.load();
  } catch (error) {
    say(error.message, true);
    return;
  }
  element('model').textContent = network.config.model;
  say('');
  for (const name of network.config.samples) addSample(network, name);
  element('file').addEventListener('change', (event) => takeFiles(network, event.target.files));
  element('opacity').addEventListener('input', draw);
  for (const type of ['dragover', 'dragleave', 'drop']) {
    document.body.addEventListener(type, (event) => {
      event.preventDefault();
      document.body.classList.toggle('dragging', type === 'dragover');
      if (type === 'drop') takeFiles(network, event.dataTransfer.files);
    });
  }
  element('samples').firstElementChild?.click();
}

start();
