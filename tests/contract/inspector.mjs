// What changed between two SDL files, as graphql-inspector tells it; prints [{ level, message, path }].
import { readFile } from "node:fs/promises";
import { CriticalityLevel, diff } from "@graphql-inspector/core";
import { buildSchema } from "graphql";

const [before, after] = await Promise.all(
  process.argv.slice(1).map(async (file) => buildSchema(await readFile(file, "utf8"))),
);
const NAMES = {
  [CriticalityLevel.Breaking]: "breaking",
  [CriticalityLevel.Dangerous]: "dangerous",
  [CriticalityLevel.NonBreaking]: "safe",
};
const found = (await diff(before, after)).map(({ criticality, message, path, type }) => ({
  level: NAMES[criticality.level], message, path, type,
}));
console.log(JSON.stringify(found));
