// How many images have which score; a click on a bar shows these alone.
import { figure, svg } from "./dom.js";

const BINS = 25;
const TALLEST = 96;

export function drawHistogram(figureElement, collection, choose) {
  const { info } = collection;
  const scores = collection.scored();
  const width = (info.high - info.low) / BINS;
  const counts = new Array(BINS).fill(0);
  const bin = (score) => Math.min(BINS - 1, Math.max(0, Math.floor((score - info.low) / width)));
  for (const item of scores) counts[bin(item.score)] += 1;
  const most = Math.max(1, ...counts);
  const picture = svg("svg", { viewBox: `0 0 ${BINS * 20} 108`, preserveAspectRatio: "none", role: "group", "aria-label": "Histogram of the scores" });
  counts.forEach((count, i) => {
    const [low, high] = [info.low + i * width, info.low + (i + 1) * width];
    const tall = count ? Math.max(2, (TALLEST * count) / most) : 0;
    const { low: least, high: greatest } = collection.filter;
    const out = (least !== null && high <= least) || (greatest !== null && low >= greatest);
    picture.append(svg("rect", { class: out ? "bar out" : "bar", x: 20 * i + 1, y: 10 + TALLEST - tall, width: 18, height: tall }));
    const label = `${count} images from ${figure(low, info)} to ${figure(high, info)}`;
    const hit = svg("rect", { class: "hit", x: 20 * i, y: 0, width: 20, height: 120, tabindex: count ? 0 : -1, role: "button", "aria-label": label });
    hit.append(svg("title", {}, label));
    hit.addEventListener("click", () => choose(low, high));
    hit.addEventListener("keydown", (event) => {
      if (event.key === "Enter" || event.key === " ") {
        event.preventDefault();
        choose(low, high);
      }
    });
    picture.append(hit);
  });
  const current = collection.items.get(collection.current);
  if (current && typeof current.score === "number") {
    const x = (BINS * 20 * (current.score - info.low)) / (info.high - info.low);
    picture.append(svg("path", { class: "here", d: `M${x - 6} 0 L${x + 6} 0 L${x} 9 Z` }));
  }
  const caption = document.createElement("figcaption");
  const unit = info.name ? `${info.name}, ` : "";
  const place = current && typeof current.score === "number" ? `; the mark is ${current.name}` : "";
  caption.textContent = `${unit}${info.higherIsBetter ? "higher" : "lower"} is better; ${scores.length} images with a score, at most ${most} in a bar${place}`;
  const ends = document.createElement("div");
  ends.className = "ends";
  for (const value of [info.low, (info.low + info.high) / 2, info.high]) {
    const end = document.createElement("span");
    end.textContent = String(value);
    ends.append(end);
  }
  figureElement.replaceChildren(picture, ends, caption);
}
