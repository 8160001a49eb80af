// One image at any size: its map, its worst regions, and two versions beside or over each other.
import { el } from "./dom.js";
import { mapCanvas } from "./colors.js";

export class Stage {
  constructor() {
    this.panes = el("div", { class: "panes" });
    this.split = el("input", { type: "range", class: "split", min: 0, max: 100, value: 50, "aria-label": "Where the first version ends and the second begins" });
    this.split.addEventListener("input", () => this.place());
    this.element = el("div", {}, this.panes, this.split);
  }

  // Where the panes are scrolled to, as a function that brings them back there.
  keep() {
    const kept = [...this.panes.children].map((pane) => [pane, pane.scrollLeft, pane.scrollTop]);
    return () => kept.forEach(([pane, left, top]) => pane.scrollTo(left, top));
  }

  // versions: one or two of {label, url}; size: of the larger one; zoom: "fit" or a factor.
  show({ versions, size, mode, zoom, map, regions, opacity, info }) {
    const wanted = JSON.stringify([versions, size, mode, zoom, map?.values, regions, opacity, this.panes.clientWidth]);
    // What is restored meanwhile tells of its progress many times a second.
    if (wanted === this.shown) return;
    this.shown = wanted;
    const kept = [...this.panes.children].map((pane) => [pane.scrollLeft, pane.scrollTop]);
    const groups = mode === "slider" || versions.length < 2 ? [versions] : versions.map((one) => [one]);
    const panes = groups.map((group) => {
      const sheet = el("div", { class: "sheet" });
      group.forEach((version, i) => {
        const image = el("img", { src: version.url, alt: version.label, class: i ? "over" : "", draggable: false });
        // A report outlives the files that it was made of.
        if (version.fallback) image.addEventListener("error", () => { image.src = version.fallback; }, { once: true });
        sheet.append(image);
      });
      if (group.length > 1) sheet.append(el("div", { class: "handle" }));
      if (map) {
        const canvas = mapCanvas(map, info);
        canvas.style.opacity = opacity;
        sheet.append(canvas);
      }
      regions.forEach((region, i) => {
        const box = el("div", { class: "region", title: `region ${i + 1}: ${region.value.toFixed(3)}` }, String(i + 1));
        const share = (value, side) => `${(100 * value) / side}%`;
        box.style.left = share(region.left, regions.width);
        box.style.top = share(region.top, regions.height);
        box.style.width = share(region.width, regions.width);
        box.style.height = share(region.height, regions.height);
        sheet.append(box);
      });
      return el("div", { class: "pane", tabindex: 0, role: "group", "aria-label": group.map((one) => one.label).join(" and ") }, sheet);
    });
    this.panes.replaceChildren(...panes);
    this.split.hidden = groups[0].length < 2;
    panes.forEach((pane, i) => {
      const width = pane.clientWidth || 600;
      const tall = window.innerHeight * 0.7;
      const factor = zoom === "fit" ? Math.min(width / size.width, tall / size.height) : zoom / window.devicePixelRatio;
      pane.firstChild.style.width = `${size.width * factor}px`;
      pane.firstChild.style.height = `${size.height * factor}px`;
      [pane.scrollLeft, pane.scrollTop] = kept[i] || kept[0] || [0, 0];
      pane.addEventListener("scroll", () => {
        for (const other of panes) {
          if (other !== pane && (other.scrollLeft !== pane.scrollLeft || other.scrollTop !== pane.scrollTop)) {
            other.scrollTo(pane.scrollLeft, pane.scrollTop);
          }
        }
      });
    });
    this.place();
  }

  place() {
    for (const sheet of this.panes.querySelectorAll(".sheet")) {
      sheet.style.setProperty("--split", `${this.split.value}%`);
    }
  }
}
