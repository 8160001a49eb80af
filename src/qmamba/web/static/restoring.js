// Restored versions of an image: asking for them, and whether they helped.
import { el, figure } from "./dom.js";
import { send } from "./server.js";

export function restoring(choices, collection, failed) {
  let last = choices[0]?.key;
  return (item) => {
    if (typeof item.score !== "number") return null;
    const chosen = el("select", {
      id: "choice",
      "aria-label": "How to restore",
      onchange: () => {
        last = chosen.value;
      },
    }, ...choices.map((one) => el("option", { value: one.key, selected: one.key === last }, one.label)));
    const ask = async () => {
      try {
        collection.put(await send("POST", `api/images/${item.id}/restore`, { choice: chosen.value }));
      } catch (error) {
        failed(error);
      }
    };
    const making = (item.making || []).map((version) => el("li", {},
      version.state === "failed"
        ? `${version.label}: ${version.error}`
        : el("label", {}, `${version.label}: ${version.state} `, el("progress", { max: 1, value: version.progress }))));
    return el("fieldset", {},
      el("legend", {}, "Restore"),
      el("div", { class: "row" }, chosen, el("button", { id: "restore", type: "button", onclick: ask }, "Restore")),
      el("ul", { id: "versions" }, ...(item.versions || []).map((version) => result(version, collection.info)), ...making));
  };
}

function result(version, info) {
  return el("li", { "data-version": version.key },
    `${version.label}: `,
    version.gain ? verdict(version.gain, info) : version.error || "being compared ...",
    " ",
    el("a", { href: version.file, download: "" }, "Save the file"));
}

function verdict(gain, info) {
  const kinds = { better: "better", worse: "worse" };
  const signed = `${gain.difference >= 0 ? "+" : ""}${figure(gain.difference, info)}`;
  const spread = gain.standardError === null ? "" : ` \u00b1 ${figure(gain.standardError, info)}`;
  const kept = gain.psnr === null ? "unchanged" : `PSNR to the input ${gain.psnr.toFixed(2)} dB`;
  return el("span", { title: "Both at the size of the result. A change counts if it is larger than 2 standard errors over the views and than 1 % of the scale." },
    el("span", { class: kinds[gain.verdict] || "" }, gain.verdict),
    ` (${figure(gain.before, info)} \u2192 ${figure(gain.after, info)}, ${signed}${spread}; ${kept})`);
}
