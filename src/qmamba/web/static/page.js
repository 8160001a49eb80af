// The live page: what the server knows, shown as it changes.
import { $, el } from "./dom.js";
import { Collection } from "./collection.js";
import { describe, startView } from "./view.js";
import { get, listen, send } from "./server.js";
import { Uploads } from "./uploads.js";
import { restoring } from "./restoring.js";

const failed = (error) => {
  $("alert").textContent = error.message;
  $("alert").hidden = false;
};

const first = await get("api/state");
const collection = new Collection(first.info);
collection.replace(first.images, first.revision);
$("about").textContent = describe(first.info);
$("made").replaceChildren(
  el("p", {}, `sha256 of the weights: ${first.info.sha256}`),
  el("p", {}, "Scores are what a network expects people to say; small differences mean nothing. Everything stays on this machine."),
);

startView(collection, {
  mark: (id, mark) => send("POST", `api/images/${id}/mark`, { mark }).then((item) => collection.put(item), failed),
  extras: restoring(first.choices, collection, failed),
});

const uploads = new Uploads(collection, first.limits, () => work());
function work() {
  const all = [...collection.items.values()];
  const count = (...states) => all.filter((item) => states.includes(item.state)).length;
  const making = all.filter((item) => item.making?.some((version) => version.state !== "failed")).length;
  const open = count("waiting", "scoring") + uploads.pending;
  $("progress").hidden = !open;
  $("progress").max = all.length + uploads.waiting.length;
  $("progress").value = count("done");
  $("cancel").hidden = !open && !making;
  $("resume").hidden = !count("canceled");
  document.title = open ? `${count("done")} of ${all.length + uploads.waiting.length} \u2013 qmamba` : "qmamba";
}
collection.addEventListener("change", work);
$("cancel").addEventListener("click", () => {
  uploads.cancel();
  send("POST", "api/queue", { action: "cancel" }).catch(failed);
});
$("resume").addEventListener("click", () => send("POST", "api/queue", { action: "resume" }).catch(failed));

async function refresh() {
  const state = await get("api/state");
  collection.replace(state.images, state.revision);
}

listen(
  (event) => {
    if (event.removed) collection.remove(event.removed);
    else collection.put(event.image);
  },
  async (reached) => {
    if (!reached) {
      failed(new Error("The server cannot be reached. If it has ended, what it was doing is lost; start `qmamba serve` again and open the address that it prints."));
      return;
    }
    // What changed before the events began, at first and after every interruption.
    await refresh().then(() => { $("alert").hidden = true; }, failed);
  },
);
work();
