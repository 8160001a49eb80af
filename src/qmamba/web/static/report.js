// A report: the data lies in the page, and marks last as long as it is open.
import { $, el } from "./dom.js";
import { Collection } from "./collection.js";
import { describe, startView } from "./view.js";

const data = JSON.parse($("data").textContent);
$("data").remove();
const collection = new Collection(data.info);
collection.replace(data.images.map((item, i) => ({ ...item, id: `i${i}` })));
$("title").textContent = data.info.title || "qmamba";
document.title = data.info.title || "qmamba";
$("about").textContent = describe(data.info);
startView(collection, {
  mark: (id, mark) => collection.put({ id, mark }),
});
$("made").replaceChildren(
  ...[
    data.info.made,
    data.info.command && `Command: ${data.info.command}`,
    ...data.info.models.map((one) => `Scored with ${one}`),
    data.info.sha256 && `sha256 of the weights: ${data.info.sha256}`,
    "Scores are what a network expects people to say; small differences mean nothing.",
  ].filter(Boolean).map((text) => el("p", {}, text)),
);
