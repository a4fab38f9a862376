// A small curve in a row of a list, without axes.
import { tags } from "./dom.js";

const { svg, polyline } = tags;
const WIDTH = 84;
const HEIGHT = 22;

/** @param {{ values: (number | null)[] }} props */
export function Spark({ values }) {
  const known = values.filter((value) => value !== null);
  const box = { class: "spark", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, "aria-hidden": /** @type {const} */ ("true") };
  if (known.length < 2) return svg(box);
  const low = Math.min(...known);
  const span = Math.max(...known) - low || 1;
  const points = values.flatMap((value, i) =>
    value === null
      ? []
      : [`${((i / (values.length - 1)) * (WIDTH - 2) + 1).toFixed(1)},${(HEIGHT - 2 - ((value - low) / span) * (HEIGHT - 4)).toFixed(1)}`]);
  return svg(box, polyline({ points: points.join(" ") }));
}
