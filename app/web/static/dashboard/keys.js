// Keyboard shortcuts of every page, and the help at `?`.
import { useRef, useState } from "preact/hooks";
import { Dialog } from "./dialog.js";
import { useKeys } from "./parts.js";
import { go } from "./route.js";
import { t } from "./words.js";
import { h, tags } from "./dom.js";

const { dl, dt, dd, kbd } = tags;

/** `g` and one of these goes to a page. @type {Record<string, string>} */
const PAGES = { r: "", e: "experiments", c: "checkpoints" };
const SECONDS = 1.5;

/** @type {[string[], string][]} */
const ALL = [
  [["j", "k"], t("the run above or below, in the list")], [["Enter"], t("open it")], [["x"], t("select it")],
  [["c"], t("compare what is selected")], [["/"], t("search")], [["c", "r"], t("on a run's page: cancel, resume (asks first)")],
  [["g", "r"], `${t("go to")}: ${t("runs")}`], [["g", "e"], `${t("go to")}: ${t("experiments")}`], [["g", "c"], `${t("go to")}: ${t("checkpoints")}`],
  [["?"], t("this list")],
];

export function KeysHelp() {
  const [open, setOpen] = useState(false);
  const began = useRef(0);
  // Handled before the page, which has another meaning for the second key.
  useKeys((key) => {
    const second = Date.now() - began.current < SECONDS * 1000;
    began.current = key === "g" ? Date.now() : 0;
    if (key === "?") setOpen(true);
    else if (second && key in PAGES) go(PAGES[key]);
    else return key === "g";
    return true;
  }, true);
  return open
    ? h(Dialog, { title: t("Keys"), close: () => setOpen(false) },
        dl({ class: "keys-list" }, ALL.flatMap(([keys, what]) => [
          dt({ key: `${what}k` }, keys.map((key) => kbd({ key }, key))), dd({ key: what }, what)])))
    : null;
}
