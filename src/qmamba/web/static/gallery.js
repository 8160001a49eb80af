// A grid that holds only the cells in sight, so that thousands of images cost little.
import { el, figure } from "./dom.js";

const CELL_WIDTH = 176;
const CELL_HEIGHT = 204;
const CELL_GAP = 10;

export class Gallery {
  constructor(root, collection, open, mark) {
    Object.assign(this, { root, collection, open, mark });
    this.cells = new Map();
    const draw = () => this.draw();
    window.addEventListener("scroll", draw, { passive: true });
    window.addEventListener("resize", draw);
    collection.addEventListener("change", draw);
    collection.addEventListener("select", () => this.follow());
    root.addEventListener("keydown", (event) => this.key(event));
    root.addEventListener("focus", () => {
      const [first] = collection.visible();
      if (collection.current === null && first) collection.select(first.id);
    });
  }

  columns() {
    return Math.max(1, Math.floor((this.root.clientWidth + CELL_GAP) / (CELL_WIDTH + CELL_GAP)));
  }

  draw() {
    const items = this.collection.visible();
    const columns = this.columns();
    const rows = Math.ceil(items.length / columns);
    this.root.style.height = `${rows * (CELL_HEIGHT + CELL_GAP)}px`;
    const top = -this.root.getBoundingClientRect().top;
    const first = Math.max(0, Math.floor(top / (CELL_HEIGHT + CELL_GAP)) - 1) * columns;
    const last = Math.ceil((top + window.innerHeight) / (CELL_HEIGHT + CELL_GAP) + 1) * columns;
    const wanted = new Set();
    items.slice(first, Math.max(first, last)).forEach((item, i) => {
      wanted.add(item.id);
      let known = this.cells.get(item.id);
      if (!known || known.item !== item) {
        const cell = this.cell(item);
        if (known) known.cell.replaceWith(cell);
        else this.root.append(cell);
        known = { item, cell };
        this.cells.set(item.id, known);
      }
      const index = first + i;
      const share = (this.root.clientWidth + CELL_GAP) / columns;
      known.cell.style.left = `${(index % columns) * share}px`;
      known.cell.style.width = `${share - CELL_GAP}px`;
      known.cell.style.top = `${Math.floor(index / columns) * (CELL_HEIGHT + CELL_GAP)}px`;
      known.cell.style.height = `${CELL_HEIGHT}px`;
      known.cell.setAttribute("aria-posinset", index + 1);
      known.cell.setAttribute("aria-setsize", items.length);
      known.cell.setAttribute("aria-selected", item.id === this.collection.current);
    });
    for (const [id, { cell }] of this.cells) {
      if (!wanted.has(id)) {
        cell.remove();
        this.cells.delete(id);
      }
    }
    // Who has the page read out hears the images in the order in which they are seen.
    let place = this.root.firstElementChild;
    for (const id of wanted) {
      const { cell } = this.cells.get(id);
      if (cell === place) place = place.nextElementSibling;
      else this.root.insertBefore(cell, place);
    }
    const current = this.cells.get(this.collection.current);
    if (current) this.root.setAttribute("aria-activedescendant", current.cell.id);
    else this.root.removeAttribute("aria-activedescendant");
  }

  cell(item) {
    const { info } = this.collection;
    const text = item.error ? "error" : typeof item.score === "number" ? figure(item.score, info) : item.state || "";
    const frame = item.thumb && !item.error
      ? el("img", { src: item.thumb, alt: "", decoding: "async" })
      : el("span", { class: "error" }, item.error || "");
    const marks = { keep: "kept", reject: "rejected" };
    return el(
      "div",
      {
        id: `cell-${item.id}`,
        class: `cell ${item.mark || ""}`,
        role: "option",
        title: item.name,
        "aria-label": [item.name, text, item.error, marks[item.mark]].filter(Boolean).join(", "),
        onclick: () => {
          this.collection.select(item.id);
          this.open(item.id);
        },
      },
      el("div", { class: "frame" }, frame),
      el("div", { class: "line" }, el("span", { class: "score" }, text), item.mark ? el("span", { class: `mark-${item.mark}` }, marks[item.mark]) : null),
      el("div", { class: "name" }, item.name),
    );
  }

  follow() {
    const items = this.collection.visible();
    const index = items.findIndex((item) => item.id === this.collection.current);
    if (index >= 0) {
      const top = this.root.getBoundingClientRect().top + Math.floor(index / this.columns()) * (CELL_HEIGHT + CELL_GAP);
      if (top < 0) window.scrollBy(0, top - CELL_GAP);
      else if (top + CELL_HEIGHT > window.innerHeight) window.scrollBy(0, top + CELL_HEIGHT + CELL_GAP - window.innerHeight);
    }
    this.draw();
  }

  // Move the selection by a number of images; false where there is none.
  step(by) {
    const items = this.collection.visible();
    const index = items.findIndex((item) => item.id === this.collection.current);
    const next = items[index < 0 ? 0 : Math.min(items.length - 1, Math.max(0, index + by))];
    if (next) this.collection.select(next.id);
    return Boolean(next);
  }

  key(event) {
    const moves = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: this.columns(), ArrowUp: -this.columns(), PageDown: 4 * this.columns(), PageUp: -4 * this.columns(), Home: -1e9, End: 1e9 };
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key in moves) this.step(moves[event.key]);
    else if (event.key === "Enter" && this.collection.current !== null) this.open(this.collection.current);
    else if (!this.markBy(event.key)) return;
    event.preventDefault();
  }

  markBy(key) {
    const marks = { k: "keep", x: "reject", u: null };
    const wanted = key.toLowerCase();
    if (!(wanted in marks) || this.collection.current === null) return false;
    this.mark(this.collection.current, marks[wanted]);
    return true;
  }
}
