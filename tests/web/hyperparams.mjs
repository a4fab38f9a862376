// What test_hyperparams.py asks of hyperparams.js; prints it as JSON.
const { rowsOf, valueOf, overridesOf } = await import(process.argv.at(-1));

const given = JSON.parse(
  '{"lr": 0.001, "seed": "1", "optimizer": {"name": "adam", "betas": [0.9, 0.99]}, "a.b": 2, "empty": {}, "__proto__": {"bad": 1}}',
);
const out = {};
out.same = valueOf(rowsOf(given));
out.polluted = {}.bad ?? null;

/** The rows, with the values of some changed. */
const changed = (values) => rowsOf(given).map((row) => (row.key in values ? { ...row, value: values[row.key] } : row));
out.nothing = overridesOf(rowsOf(given));
out.nested = overridesOf(changed({ "optimizer.name": "sgd" }));
out.dotted = overridesOf(changed({ "a.b": "3" }));
out.fresh = overridesOf([...rowsOf(given), { key: " warmup.steps ", value: "10" }, { key: "", value: "7" }]);
out.typed = valueOf([{ key: "x", value: "1e-3" }, { key: "flag", value: "true" }, { key: "text", value: "word" }, { key: "deep.er", value: "[1]" }]);
console.log(JSON.stringify(out));
