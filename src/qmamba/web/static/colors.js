// The color map viridis, as in the overlays of `qmamba score --map`: bright is good.
import { el } from "./dom.js";

const ANCHORS = (
  "440154 48186a 472d7b 424086 3b528b 33638d 2c728e 26828e 21918c 1fa088 28ae80 3fbc73 5ec962 "
  + "84d44b addc30 d8e219 fde725"
).split(" ").map((text) => [0, 2, 4].map((at) => parseInt(text.slice(at, at + 2), 16)));

export function color(share) {
  const at = Math.min(1, Math.max(0, share)) * (ANCHORS.length - 1);
  const below = Math.min(ANCHORS.length - 2, Math.floor(at));
  return ANCHORS[below].map((low, channel) => {
    return Math.round(low + (at - below) * (ANCHORS[below + 1][channel] - low));
  });
}

export function goodness(value, info) {
  const share = (value - info.low) / (info.high - info.low);
  return info.higherIsBetter ? share : 1 - share;
}

export function floats(text) {
  const bytes = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
  const view = new DataView(bytes.buffer);
  return Float32Array.from({ length: bytes.length / 4 }, (_, i) => view.getFloat32(4 * i, true));
}

// The mean of a map, weighted by how many views look at a place: the score before clamping.
export function mapMean(map) {
  const values = floats(map.values);
  const coverage = floats(map.coverage);
  let sum = 0;
  let weights = 0;
  values.forEach((value, i) => {
    if (coverage[i] > 0) {
      sum += value * coverage[i];
      weights += coverage[i];
    }
  });
  return sum / weights;
}

export function mapCanvas(map, info) {
  const canvas = el("canvas", { width: map.columns, height: map.rows });
  const context = canvas.getContext("2d");
  const image = context.createImageData(map.columns, map.rows);
  floats(map.values).forEach((value, i) => {
    const seen = !Number.isNaN(value);
    image.data.set(seen ? [...color(goodness(value, info)), 255] : [0, 0, 0, 0], 4 * i);
  });
  context.putImageData(image, 0, 0);
  return canvas;
}

export function legend(info) {
  const canvas = el("canvas", { width: 256, height: 1, class: "legend", "aria-hidden": "true" });
  const context = canvas.getContext("2d");
  const image = context.createImageData(256, 1);
  for (let i = 0; i < 256; i += 1) {
    image.data.set([...color(info.higherIsBetter ? i / 255 : 1 - i / 255), 255], 4 * i);
  }
  context.putImageData(image, 0, 0);
  const middle = (info.low + info.high) / 2;
  const ends = [info.low, middle, info.high].map((value) => el("span", {}, String(value)));
  return el("div", {}, canvas, el("div", { class: "ends" }, ...ends));
}
