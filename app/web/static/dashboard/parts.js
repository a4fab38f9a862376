// Components that several pages use.
import { useEffect, useRef, useState } from "preact/hooks";
import { h, tags } from "./dom.js";
import { href } from "./route.js";
import { called, number, short } from "./format.js";
import { explained, t } from "./words.js";

const { span, a, button, div, p, kbd, progress } = tags;

export const ACTIVE = ["QUEUED", "STARTING", "RUNNING", "CANCELLING"];
export const STATUSES = [...ACTIVE, "SUCCEEDED", "FAILED", "CANCELLED"];

/** A run's status or a checkpoint's state, with the reason as words on hover.
 * @param {{ status: string, reason?: string | null }} props */
export const Status = ({ status, reason }) =>
  span(
    { class: `status ${status.toLowerCase()}`, title: reason ? explained(reason) : undefined },
    t(status.toLowerCase()),
    reason && ACTIVE.includes(status) ? span({ class: "why" }, explained(reason)) : null,
  );

/** @param {{ value: number | null }} props */
export const Bar = ({ value }) =>
  progress(value === null ? { max: 1, value: 0, "aria-label": t("Progress") } : { max: 1, value, "aria-label": t("Progress") });

/** @param {{ run: { step: number, totalSteps: number | null } }} props */
export const Steps = ({ run }) =>
  span({ class: "steps" }, run.totalSteps
    ? t("{n} of {m} steps", { n: number(run.step), m: number(run.totalSteps) })
    : t("{n} steps", { n: number(run.step) }));

/** @param {{ run: { id: string, name?: string | null } }} props */
export const RunLink = ({ run }) =>
  a({ href: href(`runs/${run.id}`), class: run.name ? "" : "id", title: run.name ? `${run.name} · ${run.id}` : run.id }, called(run));

/** @param {{ color: string }} props */
export const Swatch = ({ color }) => span({ class: "swatch", style: { background: color } });

/** @param {{ text: string, label?: string }} props */
export function Copy({ text, label }) {
  const [done, setDone] = useState(false);
  return button(
    {
      type: "button", class: "quiet", title: text, "aria-label": label ?? t("Copy {what}", { what: text }),
      onClick: async () => {
        await copy(text);
        setDone(true);
        setTimeout(() => setDone(false), 1200);
      },
    },
    done ? t("Copied") : label ?? t("Copy"),
  );
}

/** Copy a text. On plain HTTP there is no `navigator.clipboard`: a selection is copied there.
 * @param {string} text */
async function copy(text) {
  if (navigator.clipboard) return navigator.clipboard.writeText(text);
  const field = document.createElement("textarea");
  field.value = text;
  (document.querySelector("dialog[open]") ?? document.body).append(field);
  field.select();
  document.execCommand("copy");
  field.remove();
}

/** @param {{ error: Error | null, again?: () => void }} props */
export const Trouble = ({ error, again }) =>
  error
    ? div({ class: "trouble", role: "alert" }, span({}, error.message),
        again ? button({ type: "button", onClick: again }, t("Try again")) : null)
    : null;

/** A placeholder for an empty list. @param {{ title: string, children?: any }} props */
export const Empty = ({ title, children }) => div({ class: "empty" }, p({ class: "empty-title" }, title), children);

export const Loading = () => div({ class: "loading", role: "status" }, t("Loading…"));

/** A name and its value. @param {{ name: string, children?: any }} props */
export const Fact = ({ name, children }) => div({ class: "fact" }, span({ class: "faint" }, name), div({}, children));

/** A choice of one option among several.
 * @param {{ label: string, value: string, options: [string, string][], choose: (value: string) => void }} props */
export const Choice = ({ label, value, options, choose }) =>
  div({ class: "choice", role: "group", "aria-label": label }, options.map(([key, text]) =>
    button({ key, type: "button", "aria-pressed": key === value, onClick: () => choose(key) }, text)));

/** A button that stays pressed. @param {{ on: boolean, set: (on: boolean) => void, children?: any }} props */
export const Toggle = ({ on, set, children }) =>
  button({ type: "button", "aria-pressed": on, onClick: () => set(!on) }, children);

/** @param {string[]} keys @param {string} what */
const hint = (keys, what) => span({ key: what, class: "hint" }, keys.map((key) => kbd({ key }, key)), " ", what);

/** The keys of the list of runs. */
export const Keys = () =>
  div({ class: "keys faint" }, hint(["j", "k"], t("move")), hint(["Enter"], t("open")), hint(["x"], t("select")),
    hint(["c"], t("compare")), hint(["/"], t("search")), hint(["?"], t("all keys")));

/**
 * Calls `then` for a pressed key, unless an input has the focus or a dialog is open.
 *
 * @param {(key: string) => boolean | void} then returns true if it handled the key
 * @param {boolean} [first] called before other handlers, which are skipped if it handled the key
 */
export function useKeys(then, first = false) {
  const latest = useRef(then);
  latest.current = then;
  useEffect(() => {
    const onKey = (/** @type {KeyboardEvent} */ event) => {
      if (event.metaKey || event.ctrlKey || event.altKey || document.querySelector("dialog[open]")) return;
      const at = /** @type {Element} */ (event.target);
      if (/^(INPUT|SELECT|TEXTAREA)$/.test(at.tagName ?? "") && !at.matches("[type=checkbox]")) return;
      if (!latest.current(event.key)) return;
      event.preventDefault();
      if (first) event.stopImmediatePropagation();
    };
    addEventListener("keydown", onKey, first);
    return () => removeEventListener("keydown", onKey, first);
  }, []);
}

/** Render again every few seconds, for texts such as "5 s ago"; return how often it has.
 * @param {number} [seconds] */
export function useTicks(seconds = 10) {
  const [count, set] = useState(0);
  useEffect(() => {
    const timer = setInterval(() => document.hidden || set((n) => n + 1), seconds * 1000);
    return () => clearInterval(timer);
  }, [seconds]);
  return count;
}

/** The title of the tab. @param {string} text */
export function useTitle(text) {
  useEffect(() => {
    document.title = text ? `${text} · LLM Train` : "LLM Train";
  }, [text]);
}

export { h, short };
