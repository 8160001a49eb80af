// All images, which of them are shown, in which order, and which one is the present one.

export class Collection extends EventTarget {
  constructor(info) {
    super();
    this.info = info;
    this.items = new Map();
    this.removed = new Set();
    this.filter = { low: null, high: null, show: "all", text: "" };
    this.sort = "best";
    this.current = null;
    this.cache = null;
  }

  // What is known of an image; something older than what is known already changes nothing.
  put(item) {
    const known = this.items.get(item.id);
    if (known?.revision > item.revision || this.removed.has(item.id)) return;
    this.items.set(item.id, { order: this.items.size, mark: null, ...known, ...item });
    this.changed();
  }

  // Everything there was at a revision of the server; what has come since then stays.
  replace(items, revision = Infinity) {
    const since = [...this.items.values()].filter((item) => item.revision > revision);
    this.items = new Map();
    items.forEach((item) => this.put(item));
    since.forEach((item) => this.put(item));
    if (!this.items.has(this.current)) this.current = null;
    this.changed();
  }

  remove(id) {
    this.removed.add(id);
    this.items.delete(id);
    if (this.current === id) this.current = null;
    this.changed();
  }

  set(filter) {
    Object.assign(this.filter, filter);
    this.changed();
  }

  order(sort) {
    this.sort = sort;
    this.changed();
  }

  select(id) {
    this.current = id;
    this.dispatchEvent(new Event("select"));
  }

  changed() {
    this.cache = null;
    if (this.pending) return;
    // Many images may change within one frame; what is drawn follows once.
    this.pending = true;
    setTimeout(() => {
      this.pending = false;
      this.dispatchEvent(new Event("change"));
    }, 16);
  }

  scored() {
    return [...this.items.values()].filter((item) => typeof item.score === "number");
  }

  visible() {
    this.cache ??= [...this.items.values()].filter((item) => this.passes(item)).sort(
      (a, b) => this.compare(a, b),
    );
    return this.cache;
  }

  // The share of scored images that are no better, in percent.
  percentile(item) {
    const all = this.scored();
    const worse = all.filter((other) => this.badness(other) >= this.badness(item));
    return Math.round((100 * worse.length) / all.length);
  }

  passes(item) {
    const { low, high, show, text } = this.filter;
    const scored = typeof item.score === "number";
    if (low !== null && !(scored && item.score >= low)) return false;
    if (high !== null && !(scored && item.score <= high)) return false;
    if (show === "error" && !item.error) return false;
    if (show === "unmarked" && item.mark) return false;
    if ((show === "keep" || show === "reject") && item.mark !== show) return false;
    return !text || item.name.toLowerCase().includes(text.toLowerCase());
  }

  badness(item) {
    if (typeof item.raw !== "number") return Infinity;
    return this.info.higherIsBetter ? -item.raw : item.raw;
  }

  compare(a, b) {
    if (this.sort === "name") return a.name < b.name ? -1 : a.name > b.name ? 1 : 0;
    if (this.sort !== "input") {
      const [first, second] = [this.badness(a), this.badness(b)];
      // Images without a score come last in either order.
      if (first === Infinity || second === Infinity) {
        if (first !== second) return first === Infinity ? 1 : -1;
      } else if (first !== second) return this.sort === "best" ? first - second : second - first;
    }
    return a.order - b.order;
  }
}
