// The end of a trainer's log, live, over the tab's one WebSocket.
import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import { ask, watch } from "../graphql.js";
import { LOG_PART, RUN_LOG } from "../operations.js";
import { root } from "../route.js";
import { printed } from "../curves.js";
import { clock, size } from "../format.js";
import { Toggle } from "../parts.js";
import { t } from "../words.js";
import { h, tags } from "../dom.js";

const { div, section, h2, input, a, button, pre, span, mark, p } = tags;

const TAIL = 65_536;
const MOST = 2_097_152;
const LINES = 3_000;

/** @param {{ run: import("../pages/run.js").RunDetail }} props */
export function Log({ run }) {
  const removed = run.logRemovedAt;
  const { text, first, total, earlier } = useLog(run.id, run.recipe !== null && removed === null);
  const [follow, setFollow] = useState(true);
  const [find, setFind] = useState("");
  const place = useRef(/** @type {HTMLPreElement | null} */ (null));
  const lines = useMemo(() => printed(text).split("\n"), [text]);
  const found = find ? lines.filter((line) => line.toLowerCase().includes(find.toLowerCase())) : lines;
  useEffect(() => {
    if (follow && place.current) place.current.scrollTop = place.current.scrollHeight;
  }, [text, follow, find]);

  if (!run.recipe)
    return section({ "aria-label": t("Log") }, h2({}, t("Log")), p({ class: "faint" }, t("An external trainer's output stays where you started it.")));
  if (removed)
    return section({ "aria-label": t("Log") }, h2({}, t("Log")), p({ class: "faint", "data-removed": "" }, t("Retention removed the log on {day}.", { day: clock(removed) })));
  const url = new URL(`v1/experiments/${run.experiment.id}/runs/${run.id}/logs`, root);
  return section(
    { "aria-label": t("Log") },
    div({ class: "bar" }, h2({}, t("Log")),
      input({ type: "search", placeholder: t("Find"), "aria-label": t("Find in the log"), value: find, onInput: (event) => setFind(event.currentTarget.value) }),
      find ? span({ class: "faint", role: "status" }, t("{n} lines", { n: found.filter(Boolean).length })) : null,
      h(Toggle, { on: follow, set: setFollow }, t("Follow")),
      span({ class: "space" }),
      span({ class: "faint" }, total ? size(total) : ""),
      first > 0 ? button({ type: "button", class: "quiet", onClick: earlier }, t("Earlier")) : null,
      a({ class: "quiet button", href: url.href, download: `${run.id}.log` }, t("Whole file"))),
    pre({ class: "log", ref: place, tabIndex: 0, role: "log", "aria-live": "off", "aria-label": t("Log"),
      onWheel: (event) => event.deltaY < 0 && setFollow(false),
      onKeyDown: (event) => /^(ArrowUp|PageUp|Home)$/.test(event.key) && setFollow(false) },
      found.length === 0 || (found.length === 1 && !found[0])
        ? span({ class: "faint" }, find ? t("No lines match.") : t("Nothing printed yet."))
        : highlighted(found.slice(-LINES), find)));
}

/** @param {string[]} lines @param {string} find @returns {any} */
function highlighted(lines, find) {
  if (!find) return lines.join("\n");
  const wanted = find.toLowerCase();
  return lines.flatMap((line, i) => {
    const parts = [];
    let from = 0;
    for (let at = line.toLowerCase().indexOf(wanted); at >= 0; at = line.toLowerCase().indexOf(wanted, from)) {
      parts.push(line.slice(from, at), mark({ key: `${i}.${at}` }, line.slice(at, at + find.length)));
      from = at + find.length;
    }
    return [...parts, `${line.slice(from)}\n`];
  });
}

/** @param {string} id @param {boolean} any */
function useLog(id, any) {
  const [state, setState] = useState({ text: "", first: 0, total: 0 });
  useEffect(() => {
    if (!any) return;
    setState({ text: "", first: 0, total: 0 });
    let waiting = "";
    let frame = 0;
    let first = -1;
    const from = { id, offset: -TAIL }; // advanced with each part, so that a reconnect continues there
    const end = watch(RUN_LOG, from, ({ runLog }) => {
      if (first < 0) first = runLog.offset;
      from.offset = runLog.nextOffset;
      waiting += runLog.text;
      // A trainer may print thousands of lines a second: a render for each would block the tab.
      cancelAnimationFrame(frame);
      frame = requestAnimationFrame(() => {
        const more = waiting;
        waiting = "";
        setState((known) => ({ text: (known.text + more).slice(-MOST), first: known.text ? known.first : first, total: runLog.totalBytes }));
      });
    });
    return () => (end(), cancelAnimationFrame(frame));
  }, [id, any]);

  const earlier = async () => {
    const offset = Math.max(0, state.first - TAIL);
    const { run } = await ask(LOG_PART, { id, offset, limit: state.first - offset });
    if (run?.log) {
      const { text, offset: first } = run.log;
      setState((known) => ({ ...known, text: text + known.text, first }));
    }
  };
  return { ...state, earlier };
}
