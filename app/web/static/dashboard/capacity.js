// Available resources: for each launcher its capacity, its runs and the queue.
import { useEffect, useState } from "preact/hooks";
import { ask } from "./graphql.js";
import { CAPACITY } from "./operations.js";
import { number } from "./format.js";
import { sentence } from "./service.js";
import { t } from "./words.js";
import { tags } from "./dom.js";

const { section, h2, table, thead, tbody, tr, th, td, p, div, span } = tags;
const SECONDS = 10;

/** @typedef {import("./generated.js").Operations["Capacity"]["result"]["capacity"]} Found */

export function Capacity() {
  const [found, setFound] = useState(/** @type {Found | null} */ (null));
  useEffect(() => {
    const load = () => document.hidden || ask(CAPACITY, {}).then(({ capacity }) => setFound(capacity), () => {});
    load();
    const timer = setInterval(load, SECONDS * 1000);
    return () => clearInterval(timer);
  }, []);
  if (!found) return null;
  return section({ "aria-label": t("Available resources") }, h2({}, t("Available resources")),
    div({ class: "scroll-x", tabIndex: 0, role: "region", "aria-label": t("Available resources") }, table({ class: "plain" },
      thead({}, tr({}, [t("Runs on"), t("CPUs"), t("Memory"), t("GPUs"), t("Running runs")].map((name, i) => th({ key: name, scope: "col", class: i ? "number" : "" }, name)))),
      tbody({}, found.launchers.map(({ name, cpus, memoryGb, gpus, maxRuns, active, queued, trouble }) =>
        tr({ key: name, "data-launcher": name }, th({ scope: "row" }, name, trouble ? div({ class: "bad sub", role: "note" }, sentence(trouble)) : null),
          gpus === null
            ? td({ colSpan: 3, class: "faint number" }, t("managed by the cluster"))
            : [td({ key: "c", class: "number" }, number(cpus)), td({ key: "m", class: "number" }, memoryGb === null ? "–" : `${number(Math.round(memoryGb))} GB`),
               td({ key: "g", class: "number" }, gpus.length ? gpus.map(({ type, count }) => `${count} × ${type}`).join(", ") : t("none"))],
          td({ class: "number" }, maxRuns === null ? number(active) : t("{n} of {m}", { n: number(active), m: number(maxRuns) }),
            queued ? div({ class: "faint sub" }, t("{n} in its queue", { n: number(queued) })) : null)))))),
    p({ class: "faint" }, span({ "data-queued": found.queued }, t("Waiting: {n}", { n: number(found.queued) }))));
}
