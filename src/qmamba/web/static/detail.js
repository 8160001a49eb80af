// The dialog with everything about one image.
import { el, figure } from "./dom.js";
import { legend } from "./colors.js";
import { Stage } from "./stage.js";

const MODES = { slider: "one over the other", side: "side by side" };

export class Detail {
  // extras: what the live page adds below the figures, as a function of the image.
  constructor(dialog, collection, { mark, step, extras = null }) {
    Object.assign(this, { dialog, collection, mark, step, extras });
    this.stage = new Stage();
    this.options = { zoom: "fit", mode: "slider", opacity: 0, regions: false };
    this.chosen = new Map();
    dialog.addEventListener("keydown", (event) => this.key(event));
    dialog.addEventListener("close", () => {
      this.id = null;
    });
    collection.addEventListener("change", () => {
      const item = this.collection.items.get(this.id);
      if (this.id && !item) dialog.close();
      else if (item && item !== this.item) this.draw();
    });
  }

  open(id) {
    this.id = id;
    this.draw();
    if (!this.dialog.open) this.dialog.showModal();
    this.render();
  }

  versions(item) {
    const original = { key: "original", label: item.versionLabel || "original", url: item.full || item.link || item.thumb, fallback: item.link ? item.thumb : null, scale: 1 };
    return [original, ...(item.versions || [])].filter((version) => version.url);
  }

  pair(item) {
    const all = this.versions(item);
    const wanted = this.chosen.get(item.id) || {};
    const b = all.find((one) => one.key === wanted.b) || all[all.length - 1];
    return [all.find((one) => one.key === wanted.a) || all[0], b];
  }

  draw() {
    const item = this.collection.items.get(this.id);
    if (!item) return;
    this.item = item;
    const focused = this.dialog.contains(document.activeElement) ? document.activeElement.id : "";
    const scrolledBack = this.stage.keep();
    this.dialog.replaceChildren(
      el("div", { class: "row" },
        el("button", { id: "close", type: "button", onclick: () => this.dialog.close() }, "Close"),
        el("button", { id: "before", type: "button", onclick: () => this.move(-1) }, "Previous"),
        el("button", { id: "after", type: "button", onclick: () => this.move(1) }, "Next"),
        ...[["keep", "Keep"], ["reject", "Reject"]].map(([mark, text]) => el("button", { id: mark, type: "button", "aria-pressed": String(item.mark === mark), onclick: () => this.mark(item.id, item.mark === mark ? null : mark) }, text)),
        el("h2", { id: "detail-name" }, item.name)),
      el("div", { class: "detail" },
        el("div", {}, this.stage.element, this.view(item)),
        el("div", {}, ...this.facts(item), this.extras ? this.extras(item, this) : null)),
    );
    scrolledBack();
    const again = focused && this.dialog.querySelector(`#${CSS.escape(focused)}`);
    if (again) again.focus();
    if (this.dialog.open) this.render();
  }

  view(item) {
    const { options } = this;
    const all = this.versions(item);
    const [a, b] = this.pair(item);
    const zooms = [["fit", "Fit"], [1, "1:1"], [2, "2:1"]];
    const choice = (side, present, text) => el("label", {}, text, " ", el("select", {
      id: `version-${side}`,
      onchange: (event) => {
        this.chosen.set(item.id, { ...this.chosen.get(item.id), a: a.key, b: b.key, [side]: event.target.value });
        this.draw();
      },
    }, ...all.map((version) => el("option", { value: version.key, selected: version.key === present.key }, version.label))));
    const opacity = el("input", { id: "opacity", type: "range", min: 0, max: 1, step: 0.05, value: options.opacity, oninput: (event) => {
      options.opacity = Number(event.target.value);
      this.render();
    } });
    const boxes = el("input", { id: "regions", type: "checkbox", checked: options.regions, onchange: (event) => {
      options.regions = event.target.checked;
      this.render();
    } });
    return el("div", {},
      el("div", { class: "row", role: "group", "aria-label": "Zoom" }, ...zooms.map(([zoom, text]) => el("button", { id: `zoom-${zoom}`, type: "button", "aria-pressed": String(options.zoom === zoom), onclick: () => this.set({ zoom }) }, text))),
      all.length > 1 ? el("div", { class: "row" }, choice("a", a, "First"), choice("b", b, "Second"), ...Object.entries(MODES).map(([mode, text]) => el("button", { id: `mode-${mode}`, type: "button", "aria-pressed": String(options.mode === mode), onclick: () => this.set({ mode }) }, text))) : null,
      item.map ? el("div", {}, el("div", { class: "row" }, el("label", {}, "Quality map ", opacity), el("label", {}, boxes, " worst regions")), legend(this.collection.info)) : null);
  }

  facts(item) {
    const { info } = this.collection;
    if (item.error) return [el("p", { class: "worse" }, item.error)];
    if (typeof item.score !== "number") return [el("p", {}, item.state || "no score yet")];
    const rows = [
      ["percentile", `${this.collection.percentile(item)} % of the images are no better`],
      ["spread", figure(item.spread, info)],
      ["size", `${item.width} x ${item.height}`],
      ...(item.notes.length ? [["notes", item.notes.join("; ")]] : []),
      ...(item.reasons ? [["reasons", item.reasons]] : []),
      ...(item.regions || []).map((region, i) => [`region ${i + 1}`, `${figure(region.value, info)} at ${region.left}, ${region.top}`]),
    ];
    return [
      el("div", { class: "big", id: "detail-score" }, figure(item.score, info)),
      el("dl", {}, ...rows.flatMap(([term, text]) => [el("dt", {}, term), el("dd", {}, text)])),
      item.link ? el("p", {}, el("a", { href: item.link, target: "_blank", rel: "noreferrer" }, "Open the file")) : null,
    ].filter(Boolean);
  }

  render() {
    const { item, options } = this;
    const [a, b] = this.pair(item);
    if (!a) return;
    const scale = Math.max(a.scale, b.scale);
    this.stage.show({
      versions: a.key === b.key ? [a] : [a, b],
      size: { width: (item.width || 1) * scale, height: (item.height || 1) * scale },
      mode: options.mode,
      zoom: options.zoom,
      map: options.opacity > 0 ? item.map : null,
      regions: options.regions ? Object.assign([...(item.regions || [])], { width: item.width, height: item.height }) : [],
      opacity: options.opacity,
      info: this.collection.info,
    });
  }

  set(options) {
    Object.assign(this.options, options);
    this.draw();
  }

  move(by) {
    if (this.step(by)) this.open(this.collection.current);
  }

  key(event) {
    const typing = ["INPUT", "SELECT"].includes(event.target.tagName) || event.target.closest(".pane");
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const marks = { k: "keep", x: "reject", u: null };
    if (!typing && event.key === "ArrowRight") this.move(1);
    else if (!typing && event.key === "ArrowLeft") this.move(-1);
    else if (event.target.type !== "text" && event.key.toLowerCase() in marks) this.mark(this.id, marks[event.key.toLowerCase()]);
    else return;
    event.preventDefault();
  }
}
