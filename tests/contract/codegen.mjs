// Generates TypeScript types for a schema and its operations, as a frontend's build does.
// Arguments: the SDL file, the operations' file, the folder to write types.ts to.
import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { codegen } from "@graphql-codegen/core";
import * as operations from "@graphql-codegen/typescript-operations";
import { parse } from "graphql";

const [sdl, documents, folder] = process.argv.slice(1);
const types = await codegen({
  schema: parse(await readFile(sdl, "utf8")),
  documents: [{ location: documents, document: parse(await readFile(documents, "utf8")) }],
  filename: "types.ts",
  config: { strictScalars: false },
  plugins: [{ operations: {} }],
  pluginMap: { operations },
});
await writeFile(join(folder, "types.ts"), types);
console.log(JSON.stringify(types.length));
