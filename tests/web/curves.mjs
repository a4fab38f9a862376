// What test_curves.py asks of curves.js; prints it as JSON.
const { smooth, halfLife, typical, extend, empty, along, valueAt, together, printed, tally, specialAlong } = await import(process.argv.at(-1));

const range = (n) => Array.from({ length: n }, (_, i) => i);
const band = (steps, means, counts = steps.map(() => 1)) =>
  ({ ...empty("loss"), steps, means, lows: means, highs: means, counts, wallTimes: steps.map((s) => 1000 + s) });
const out = {};

// A hundred thousand skewed points, one in a hundred a hundred times as large, as the service sums them up.
const points = range(100_000).map((i) => (i % 100 === 37 ? 10 : 0.1 + (i % 7) * 0.01));
const truth = points.reduce((a, b) => a + b) / points.length;
const steps = range(600).map((i) => i * 167 + 83);
const parts = range(600).map((i) => points.slice(i * 167, (i + 1) * 167)).filter((part) => part.length);
const means = parts.map((part) => part.reduce((a, b) => a + b) / part.length);
const x = steps.slice(0, means.length);
const line = smooth(x, means, parts.map((part) => part.length), halfLife(x, 0.9));
out.worst = Math.max(...line.map((value) => Math.abs(value - truth) / truth));
const extremes = smooth(x, parts.map((part) => Math.max(...part)), x.map(() => 1), halfLife(x, 0.9));
out.extremes = extremes[300] / truth;

// A straight line stays where it is, also at its ends; a NaN stays a gap and poisons nothing.
const straight = range(200).map((i) => 5 - i / 50);
out.bent = Math.max(...smooth(range(200), straight, straight.map(() => 1), 20).map((value, i) => Math.abs(value - straight[i])));
out.gap = smooth(range(5), [1, 1, null, 1, 1], [1, 1, 0, 1, 1], 1);
out.one = smooth([3], [7], [1], 2);

// Wild values do not stretch the axis.
out.typical = typical([[...range(100).map((i) => 1 + (i % 10) / 10), 1e6]]);

// A new attempt takes back what is from its first step on.
const extended = extend(band([1, 2, 3, 4], [4, 3, 2, 1]), { steps: [3, 4, 5], values: [9, 8, 7], wallTimes: [1, 2, 3] });
out.extended = [extended.steps, extended.means, extended.counts];
out.same = extend(band([1], [1]), { steps: [], values: [], wallTimes: [] }).steps;

out.time = along(band([1, 2, 4], [1, 1, 1]), "time");
out.metric = along(band([1, 2, 3], [1, 1, 1]), "tokens", band([1, 3], [100, 300]));
out.between = [valueAt(band([10, 20], [1, 3]), 15), valueAt(band([10, 20], [1, 3]), 25)];
const group = together([band([1, 2], [1, 2]), band([1, 2], [3, 2])]);
out.together = [group.means, group.lows, group.highs];

// What is no number is told by its kind, where it is, and again in a group.
const broken = { ...band([1, 2, 3], [1, null, 3]), special: [{ bucket: 1, value: "NaN", count: 3 }, { bucket: 1, value: "Infinity", count: 1 }, { bucket: 2, value: "NaN", count: 1 }] };
const later = extend(broken, { steps: [3, 4, 5], values: [1, null, null], wallTimes: [1, 2, 3], special: [{ step: 4, value: "-Infinity" }, { step: 5, value: "NaN" }] });
out.special = later.special;
out.tally = [tally([broken]), tally([later, broken]), tally([band([1], [1])])];
out.along = [...specialAlong([10, 20, 30], broken)];
out.grouped = together([broken, band([1, 2, 3, 4], [1, 2, 3, 4])]).special;
out.printed = printed("10%\r20%\r100%\nnext\r\n\x1b[31mred\x1b[0m\nlast\r");
console.log(JSON.stringify(out));
