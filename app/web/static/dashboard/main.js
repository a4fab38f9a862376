// The dashboard: a bar, and the page of the address.
import { render } from "preact";
import { useLayoutEffect } from "preact/hooks";
import { connect } from "./graphql.js";
import { href, path } from "./route.js";
import { Runs } from "./pages/runs.js";
import { Run } from "./pages/run.js";
import { Compare } from "./pages/compare.js";
import { Experiments } from "./pages/experiments.js";
import { Experiment } from "./pages/experiment.js";
import { Checkpoints } from "./pages/checkpoints.js";
import { Recipes } from "./pages/recipes.js";
import { Usage } from "./pages/usage.js";
import { Audit } from "./pages/audit.js";
import { Webhooks } from "./pages/webhooks.js";
import { Alerts } from "./pages/alerts.js";
import { prepare } from "./chart.js";
import { look } from "./viewer.js";
import { Health } from "./health.js";
import { SignedOut } from "./session.js";
import { language, t } from "./words.js";
import { useMenus } from "./runs/tools.js";
import { KeysHelp } from "./keys.js";
import { h, tags } from "./dom.js";

const { header, main, nav, a, div, h1, svg, path: line } = tags;

/** @type {[string, string][]} */
const PAGES = [["", t("Runs")], ["experiments", t("Experiments")], ["compare", t("Compare")],
  ["checkpoints", t("Checkpoints")], ["recipes", t("Recipes")], ["usage", t("Usage")]];

function Page() {
  const [first, second] = path.value.split("/");
  if (!first || (first === "runs" && !second)) return h(Runs, {});
  if (first === "runs") return h(Run, { id: second, key: second });
  if (first === "compare") return h(Compare, {});
  if (first === "experiments" && second) return h(Experiment, { id: second, key: second });
  if (first === "experiments") return h(Experiments, {});
  if (first === "checkpoints") return h(Checkpoints, {});
  if (first === "recipes") return h(Recipes, {});
  if (first === "usage") return h(Usage, {});
  if (first === "audit") return h(Audit, {});
  if (first === "webhooks") return h(Webhooks, {});
  if (first === "alerts") return h(Alerts, {});
  return div({ class: "page" }, h1({}, t("There is no such page.")));
}

function App() {
  const [first] = path.value.split("/");
  const here = first === "runs" ? "" : first;
  useMenus();
  // On a phone the bar is wider than the screen: the current page's name would be out of view.
  useLayoutEffect(() => {
    const current = document.querySelector("header nav [aria-current]");
    const bar = current?.parentElement;
    if (current instanceof HTMLElement && bar) bar.scrollLeft = current.offsetLeft - bar.offsetLeft - (bar.clientWidth - current.offsetWidth) / 2;
  }, [here]);
  return [
    a({ key: "skip", class: "skip", href: "#main" }, t("Skip to the content")),
    header({ key: "head" },
      a({ class: "brand", href: href("") }, logo(), "LLM Train"),
      nav({ "aria-label": t("Pages") }, PAGES.map(([to, name]) =>
        a({ key: to, href: href(to), "aria-current": to === here ? "page" : undefined }, name))),
      h(Health, {})),
    h(SignedOut, { key: "signed-out" }),
    h(KeysHelp, { key: "keys" }),
    main({ key: "main", id: "main", tabIndex: -1 }, h(Page, {})),
  ];
}

const logo = () =>
  svg({ viewBox: "0 0 24 24", class: "logo", "aria-hidden": "true" },
    line({ d: "M2 4c3 11 7 14 20 15" }), line({ d: "M2 9c3 7 8 11 20 12", class: "second" }));

document.documentElement.lang = language;
// A link of `llm-train open` that was not needed: there is a session, or the service has no token.
if (location.hash.startsWith("#code=")) history.replaceState(null, "", location.pathname + location.search);
// A relative address would lead elsewhere once the page has another address.
const icon = document.querySelector("link[rel=icon]");
if (icon instanceof HTMLLinkElement) icon.setAttribute("href", icon.href);
connect();
look();
render(h(App, {}), /** @type {HTMLElement} */ (document.getElementById("page")));
performance.mark("rendered");
globalThis.requestIdleCallback?.(prepare);
