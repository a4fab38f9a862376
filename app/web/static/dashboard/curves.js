// Curves before they are drawn. Pure functions: the unit tests call them without a browser.

/**
 * A curve as the service summarizes it (`metricBands`): for each bucket of steps the mean, minimum,
 * maximum and number of points. A single point is a bucket of one.
 *
 * @typedef {object} Band
 * @property {string} key
 * @property {number[]} steps
 * @property {(number | null)[]} means
 * @property {(number | null)[]} lows
 * @property {(number | null)[]} highs
 * @property {number[]} counts
 * @property {(number | null)[]} wallTimes
 * @property {Special[]} [special] the buckets with NaN or infinite values
 *
 * @typedef {{ bucket: number, value: string, count: number }} Special
 *   the index of the bucket, and `NaN`, `Infinity` or `-Infinity`
 */

/** Symbols of NaN and the infinities. @type {Record<string, string>} */
export const SYMBOLS = { NaN: "NaN", Infinity: "∞", "-Infinity": "−∞" };

/** Columns that one line takes in a chart: its smoothed mean, raw mean, least and most. */
export const SERIES = 4;

/**
 * Smooth along x by local linear regression: the weight of a value falls by half for each `half` of
 * distance. A moving average of earlier points would lag behind a falling loss, and a centred one would
 * bend the ends. A bucket weighs as many points as it holds: smoothing points that were chosen to keep
 * the curve's shape would be off by the ones left out. A null (NaN) stays null and does not spread.
 *
 * @param {ArrayLike<number>} x @param {ArrayLike<number | null>} means @param {ArrayLike<number>} counts
 * @param {number} half more than 0
 */
export function smooth(x, means, counts, half) {
  /** @type {(number | null)[]} */
  const out = new Array(means.length).fill(null);
  const known = Array.from(means, (_, i) => i).filter((i) => means[i] !== null);
  const count = known.length;
  // For each known place the weighted sums of 1, u, u² and of y, uy over all others, where u is the
  // distance from the place in half-lives. Plain variables in one loop: this runs for each curve at the
  // first render, before the engine's compiler has optimized calls of small functions.
  const sums = new Float64Array(5 * count);
  for (const back of [false, true]) {
    let w = 0, wu = 0, wuu = 0, wy = 0, wuy = 0;
    let before = count ? x[known[back ? count - 1 : 0]] : 0;
    for (let n = 0; n < count; n++) {
      const place = back ? count - 1 - n : n;
      const i = known[place];
      const moved = (x[i] - before) / half;
      const kept = 2 ** -Math.abs(moved);
      wuu = (wuu - 2 * moved * wu + moved * moved * w) * kept;
      wu = (wu - moved * w) * kept;
      wuy = (wuy - moved * wy) * kept;
      w *= kept;
      wy *= kept;
      const at = 5 * place;
      sums[at] += w;
      sums[at + 1] += wu;
      sums[at + 2] += wuu;
      sums[at + 3] += wy;
      sums[at + 4] += wuy;
      w += counts[i];
      wy += /** @type {number} */ (means[i]) * counts[i];
      before = x[i];
    }
  }
  for (let place = 0; place < count; place++) {
    const i = known[place], at = 5 * place;
    const wu = sums[at + 1], wuu = sums[at + 2];
    const all = sums[at] + counts[i];
    const ally = sums[at + 3] + /** @type {number} */ (means[i]) * counts[i];
    const spread = all * wuu - wu * wu;
    out[i] = spread > 1e-9 * all * wuu ? (wuu * ally - wu * sums[at + 4]) / spread : ally / all;
  }
  return out;
}

/** How much x halves a value's weight: from nothing to a quarter of the curve.
 * @param {ArrayLike<number>} x @param {number} smoothing 0 to 1 */
export const halfLife = (x, smoothing) => (x.length ? ((x[x.length - 1] - x[0]) * smoothing ** 3) / 4 : 0);

/**
 * The range of the curves without outliers, by the rule of box plots. No point is removed: only the
 * axis does not extend to the outliers.
 *
 * @param {ArrayLike<number | null | undefined>[]} columns
 * @returns {[number, number] | null}
 */
export function typical(columns) {
  /** @type {number[]} */
  const found = [];
  for (const column of columns)
    for (let i = 0; i < column.length; i++) {
      const value = column[i];
      if (value !== null && value !== undefined) found.push(value);
    }
  if (found.length < 20) return null;
  const sorted = Float64Array.from(found).sort(); // an array's sort with a comparing function takes ten times as long
  const at = (/** @type {number} */ share) => sorted[Math.floor(share * (sorted.length - 1))];
  const spread = (at(0.75) - at(0.25)) * 3 || Math.abs(at(0.5)) * 0.1 || 1;
  return [Math.max(at(0), at(0.02) - spread), Math.min(at(1), at(0.98) + spread)];
}

/**
 * x of each bucket: its step, the seconds since the curve's first point, the wall time, or the value of
 * another metric at that step.
 *
 * @param {Band} band @param {string} kind @param {Band} [other]
 */
export function along(band, kind, other) {
  if (kind === "step" || (!other && kind !== "time" && kind !== "clock")) return band.steps;
  if (other) return rising(band.steps.map((step) => valueAt(other, step)));
  const first = band.wallTimes.find((time) => time !== null) ?? 0;
  const start = kind === "time" ? first : 0;
  return rising(band.wallTimes.map((time) => (time === null ? null : time - start)));
}

/** The running maximum; a null takes the value before it. @param {(number | null)[]} values */
function rising(values) {
  let last = values.find((value) => value !== null) ?? 0;
  return values.map((value) => (last = Math.max(last, value ?? last)));
}

/** The mean at a step, between its neighbours; null outside. @param {Band} band @param {number} step */
export function valueAt(band, step) {
  const { steps, means } = band;
  let low = 0;
  let high = steps.length - 1;
  if (high < 0 || step < steps[0] || step > steps[high]) return null;
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (steps[middle] <= step) low = middle;
    else high = middle;
  }
  const [a, b] = [means[low], means[high]];
  if (a === null || b === null || steps[high] === steps[low]) return steps[high] === step ? b : a;
  return a + ((b - a) * (step - steps[low])) / (steps[high] - steps[low]);
}

/**
 * Append new points to a curve. A point at a known step replaces it and all later ones: a new attempt
 * has started again from there.
 *
 * @param {Band} known
 * @param {{ steps: number[], values: (number | null)[], wallTimes: (number | null)[],
 *   special?: { step: number, value: string }[] }} news
 * @returns {Band}
 */
export function extend(known, news) {
  if (!news.steps.length) return known;
  let end = known.steps.length;
  while (end && known.steps[end - 1] >= news.steps[0]) end -= 1;
  const places = new Map(news.steps.map((step, i) => [step, end + i]));
  return {
    key: known.key,
    steps: known.steps.slice(0, end).concat(news.steps),
    means: known.means.slice(0, end).concat(news.values),
    lows: known.lows.slice(0, end).concat(news.values),
    highs: known.highs.slice(0, end).concat(news.values),
    counts: known.counts.slice(0, end).concat(news.steps.map(() => 1)),
    wallTimes: known.wallTimes.slice(0, end).concat(news.wallTimes),
    special: (known.special ?? []).filter(({ bucket }) => bucket < end)
      .concat((news.special ?? []).map(({ step, value }) => ({ bucket: places.get(step) ?? end, value, count: 1 }))),
  };
}

/** How many values of these curves are NaN, infinite or minus infinite, such as `2 × NaN, 1 × ∞`.
 * @param {Band[]} bands */
export function tally(bands) {
  /** @type {Record<string, number>} */
  const counts = {};
  for (const { special } of bands)
    for (const { value, count } of special ?? []) counts[value] = (counts[value] ?? 0) + count;
  return Object.keys(SYMBOLS).filter((value) => counts[value]).map((value) => `${counts[value]} × ${SYMBOLS[value]}`).join(", ");
}

/** NaN and infinite values, by their x. @param {ArrayLike<number>} x @param {Band} band
 * @returns {Map<number, string>} */
export function specialAlong(x, band) {
  /** @type {Map<number, string>} */
  const found = new Map();
  for (const { bucket, value, count } of band.special ?? []) {
    const said = count > 1 ? `${count} × ${SYMBOLS[value]}` : SYMBOLS[value];
    const before = found.get(x[bucket]);
    found.set(x[bucket], before ? `${before}, ${said}` : said);
  }
  return found;
}

/** @param {string} key @returns {Band} */
export const empty = (key) => ({ key, steps: [], means: [], lows: [], highs: [], counts: [], wallTimes: [] });

/**
 * Several curves as one: at each step of the longest, the mean of all curves that have a value there,
 * and one standard deviation to either side.
 *
 * @param {Band[]} bands @returns {Band}
 */
export function together(bands) {
  const longest = bands.reduce((a, b) => (b.steps.length > a.steps.length ? b : a));
  const out = { ...empty(longest.key), special: /** @type {Special[]} */ ([]) };
  longest.steps.forEach((step, i) => {
    const values = bands.map((band) => valueAt(band, step)).filter((value) => value !== null);
    if (!values.length) return;
    const mean = values.reduce((a, b) => a + b) / values.length;
    const spread = Math.sqrt(values.reduce((sum, value) => sum + (value - mean) ** 2, 0) / values.length);
    out.steps.push(step);
    out.means.push(mean);
    out.lows.push(mean - spread);
    out.highs.push(mean + spread);
    out.counts.push(values.length);
    out.wallTimes.push(longest.wallTimes[i]);
  });
  for (const { steps, special } of bands)
    for (const { bucket, value, count } of special ?? []) {
      // The last bucket that begins at or before this step.
      const after = out.steps.findIndex((step) => step > steps[bucket]);
      const place = after < 0 ? out.steps.length - 1 : Math.max(0, after - 1);
      if (out.steps.length) out.special.push({ bucket: place, value, count });
    }
  return out;
}

/**
 * The text as a terminal would show it: `\r` overwrites the line (progress bars); colours are removed.
 *
 * @param {string} text
 */
export function printed(text) {
  // eslint-disable-next-line no-control-regex
  const bare = text.replace(/\x1b\[[0-9;?]*[ -/]*[@-~]/g, "");
  return bare.includes("\r") ? bare.replace(/\r+\n/g, "\n").replace(/[^\n]*\r(?=[^\n])/g, "") : bare;
}
