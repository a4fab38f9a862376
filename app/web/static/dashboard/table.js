// A virtual list of rows of one height: only those in view are in the DOM, thirty of a thousand.
import { useEffect, useRef, useState } from "preact/hooks";
import { tags } from "./dom.js";

const { div, table, thead, tbody, tr, td } = tags;
const MARGIN = 4;
/** Milliseconds without a scroll event after which scrolling is over. */
const RESTS = 60;

/**
 * @template T
 * @param {object} props
 * @param {T[]} props.rows what is loaded, from the top
 * @param {number} props.total how many there are
 * @param {number} props.height of a row, in pixels
 * @param {any} props.head
 * @param {(row: T, index: number) => any} props.row
 * @param {() => void} props.more loads what follows
 * @param {string} props.label
 * @param {number} [props.current] a row to keep in sight
 * @param {(first: number, last: number) => void} [props.seen] called with the rows in view once scrolling is over
 */
export function Rows({ rows, total, height, head, row, more, label, current, seen }) {
  const place = useRef(/** @type {HTMLDivElement | null} */ (null));
  const [top, setTop] = useState(0);
  const [visible, setVisible] = useState(30);
  useEffect(() => {
    const element = /** @type {HTMLDivElement} */ (place.current);
    const measure = () => setVisible(Math.ceil(Math.min(element.clientHeight, innerHeight) / height) + 2 * MARGIN);
    const sizes = new ResizeObserver(measure);
    sizes.observe(element);
    return () => sizes.disconnect();
  }, [height]);

  const first = Math.max(0, Math.min(Math.floor(top / height) - MARGIN, rows.length - visible));
  const last = Math.min(rows.length, first + visible);
  useEffect(() => {
    if (last > rows.length - 30 && rows.length < total) more();
  });
  useEffect(() => {
    const rests = setTimeout(() => seen?.(first, last), RESTS);
    return () => clearTimeout(rests);
  }, [first, last, rows]);
  useEffect(() => {
    const element = place.current;
    if (current === undefined || !element) return;
    const headHeight = element.querySelector("thead")?.clientHeight ?? 0;
    const at = current * height;
    if (at < element.scrollTop) element.scrollTop = at;
    else if (at + height > element.scrollTop + element.clientHeight - headHeight)
      element.scrollTop = at + height - element.clientHeight + headHeight;
  }, [current]);

  return div(
    {
      class: "rows", ref: place, tabIndex: 0, role: "region", "aria-label": label,
      onScroll: (event) => setTop(event.currentTarget.scrollTop),
    },
    table(
      { "aria-rowcount": total + 1 },
      thead({}, head),
      tbody(
        {},
        gap("above", first * height),
        rows.slice(first, last).map((item, i) => row(item, first + i)),
        gap("below", (total - last) * height),
      ),
    ),
  );
}

/** @param {string} key @param {number} height */
const gap = (key, height) =>
  height > 0 ? tr({ key, class: "gap", "aria-hidden": true }, td({ style: { height: `${height}px` } })) : null;
