// Puts the parts together: controls, histogram, gallery and the dialog of one image.
import { $, download, figure } from "./dom.js";
import { drawHistogram } from "./histogram.js";
import { Gallery } from "./gallery.js";
import { Detail } from "./detail.js";

export function startView(collection, { mark, extras = null }) {
  const { info } = collection;
  const detail = new Detail($("detail"), collection, { mark, extras, step: (by) => gallery.step(by) });
  const gallery = new Gallery($("gallery"), collection, (id) => detail.open(id), mark);
  const [low, high] = [$("low"), $("high")];
  for (const input of [low, high]) Object.assign(input, { min: info.low, max: info.high });

  const showFilter = () => {
    const { filter } = collection;
    low.value = filter.low ?? info.low;
    high.value = filter.high ?? info.high;
    $("low-value").textContent = filter.low === null ? "all" : figure(filter.low, info);
    $("high-value").textContent = filter.high === null ? "all" : figure(filter.high, info);
    $("show").value = filter.show;
    $("text").value = filter.text;
    $("sort").value = collection.sort;
  };
  const set = (filter) => {
    collection.set(filter);
    showFilter();
  };
  low.addEventListener("input", () => set({ low: low.value > info.low ? Number(low.value) : null }));
  high.addEventListener("input", () => set({ high: high.value < info.high ? Number(high.value) : null }));
  $("show").addEventListener("change", (event) => set({ show: event.target.value }));
  $("text").addEventListener("input", (event) => set({ text: event.target.value }));
  $("sort").addEventListener("change", (event) => collection.order(event.target.value));
  $("everything").addEventListener("click", () => set({ low: null, high: null, show: "all", text: "" }));
  $("keep-shown").addEventListener("click", () => {
    const shown = collection.visible().filter((item) => typeof item.score === "number" && item.mark !== "keep");
    for (const { id } of shown) mark(id, "keep");
  });
  $("kept").addEventListener("click", () => {
    const kept = [...collection.items.values()].filter((item) => item.mark === "keep");
    download("kept.txt", kept.map((item) => `${item.name}\n`).join(""));
  });

  const drawBars = () => drawHistogram($("histogram"), collection, (least, greatest) => set({ low: least, high: greatest }));
  const draw = () => {
    drawBars();
    const [all, shown] = [collection.items.size, collection.visible().length];
    const errors = [...collection.items.values()].filter((item) => item.error).length;
    const marks = ["keep", "reject"].map((one) => [...collection.items.values()].filter((item) => item.mark === one).length);
    $("status").textContent = `${shown} of ${all} images shown, ${errors} with errors, ${marks[0]} kept, ${marks[1]} rejected`;
  };
  collection.addEventListener("change", draw);
  collection.addEventListener("select", drawBars);
  showFilter();
  draw();
  gallery.draw();
  return { detail, gallery };
}

export function describe(info) {
  return `${info.name ? `${info.name}, ` : ""}${info.low} to ${info.high}, ${info.higherIsBetter ? "higher" : "lower"} is better; ${info.model}, ${info.policy}`;
}
