// Files that are dropped or chosen go to the server one after the other.
import { $, el } from "./dom.js";
import { upload } from "./server.js";

const AT_ONCE = 2;

export class Uploads {
  constructor(collection, limits, changed) {
    Object.assign(this, { collection, limits, changed });
    this.waiting = [];
    this.running = new Set();
    const drop = $("drop");
    const stop = (event) => event.preventDefault();
    for (const name of ["dragover", "drop"]) document.addEventListener(name, stop);
    document.addEventListener("dragover", () => drop.classList.add("over"));
    document.addEventListener("dragleave", () => drop.classList.remove("over"));
    document.addEventListener("drop", async (event) => {
      drop.classList.remove("over");
      const entries = [...event.dataTransfer.items].map((item) => item.webkitGetAsEntry?.());
      const files = [...event.dataTransfer.files];
      if (entries.some((entry) => entry?.isDirectory)) this.add((await Promise.all(entries.filter(Boolean).map(walk))).flat());
      else this.add(files);
    });
    $("files").addEventListener("change", (event) => {
      this.add([...event.target.files]);
      event.target.value = "";
    });
  }

  get pending() {
    return this.waiting.length + this.running.size;
  }

  add(files) {
    $("refused").replaceChildren();
    for (const file of files) {
      if (file.size > this.limits.imageBytes) this.refuse(file, `too large, ${Math.round(this.limits.imageBytes / 2 ** 20)} MiB is the most`);
      else if (!file.size) this.refuse(file, "the file is empty");
      else this.waiting.push(file);
    }
    this.next();
  }

  cancel() {
    this.waiting = [];
    for (const one of this.running) one.abort();
  }

  next() {
    while (this.running.size < AT_ONCE && this.waiting.length) this.send(this.waiting.shift());
    this.changed();
  }

  async send(file) {
    const control = new AbortController();
    this.running.add(control);
    try {
      this.collection.put(await upload(file, control.signal));
    } catch (error) {
      if (error.name !== "AbortError") this.refuse(file, error.message);
    }
    this.running.delete(control);
    this.next();
  }

  refuse(file, reason) {
    $("refused").append(el("li", {}, `${file.name}: ${reason}`));
  }
}

// All files below a dropped folder.
async function walk(entry) {
  if (entry.isFile) return new Promise((resolve) => { entry.file((file) => resolve([file]), () => resolve([])); });
  const reader = entry.createReader();
  const found = [];
  for (;;) {
    const batch = await new Promise((resolve) => { reader.readEntries(resolve, () => resolve([])); });
    if (!batch.length) break;
    found.push(...batch.filter((one) => !one.name.startsWith(".")));
  }
  return (await Promise.all(found.map(walk))).flat();
}
