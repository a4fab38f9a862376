// The configuration: hyperparameters as requested and in effect, and a resume's override receipts.
import { flat, plain } from "../format.js";
import { t } from "../words.js";
import { h, tags } from "../dom.js";

const { section, h2, table, tbody, thead, tr, td, th, span, div } = tags;

/** @typedef {import("../pages/run.js").RunDetail} RunDetail */

/** @param {{ run: RunDetail, active: boolean }} props */
export function Receipts({ run, active }) {
  if (!run.overrides.length) return null;
  const missing = active ? t("not reported yet") : t("not reported by the trainer");
  return section({ "aria-label": t("Overrides") }, h2({}, t("Overrides")),
    table({ class: "plain" },
      thead({}, tr({}, th({}, t("Hyperparameter")), th({ class: "number" }, t("Requested")), th({ class: "number" }, t("Effective")), th({}, span({ class: "hidden" }, t("Receipt"))))),
      tbody({}, run.overrides.map(({ key, requested, effective, applied }) =>
        tr({ key, "data-receipt": key }, th({ scope: "row" }, key), td({ class: "number" }, plain(requested)),
          td({ class: "number" }, effective === null ? "–" : plain(effective)),
          td({}, span({ class: applied === null ? "faint" : applied ? "good" : "bad" },
            applied === null ? missing : applied ? `✓ ${t("applied")}` : `✗ ${t("ignored")}`)))))));
}

/** @param {{ run: RunDetail }} props */
export function Hyperparams({ run }) {
  const asked = flat(run.hyperparams);
  const used = flat(run.effectiveHyperparams);
  const keys = [...new Set([...Object.keys(asked), ...Object.keys(used)])].sort();
  const dataset = Object.entries(flat(run.dataset));
  return section({ "aria-label": t("Hyperparameters") }, h2({}, t("Hyperparameters")),
    keys.length || dataset.length
      ? div({ class: "scroll", tabIndex: 0, role: "region", "aria-label": t("Hyperparameters") }, table({ class: "plain" }, tbody({},
          keys.map((key) => {
            const differs = key in used && key in asked && plain(used[key]) !== plain(asked[key]);
            return tr({ key }, th({ scope: "row" }, key),
              td({ class: "number" }, key in asked ? plain(asked[key]) : plain(used[key]),
                key in asked ? null : span({ class: "faint" }, ` ${t("default")}`),
                differs ? span({ class: "bad" }, ` ${t("effective: {value}", { value: plain(used[key]) })}`) : null));
          }),
          dataset.map(([key, value]) => tr({ key: `d.${key}` }, th({ scope: "row" }, `dataset.${key}`), td({ class: "number" }, plain(value)))))))
      : tags.p({ class: "faint" }, t("No hyperparameters.")));
}

export { h };
