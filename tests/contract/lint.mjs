// Lints SDL files with graphql-eslint's schema configurations; prints [["line: message (rule)"]].
import { readFile } from "node:fs/promises";
import { ESLint } from "eslint";
import plugin from "@graphql-eslint/eslint-plugin";

const VALUES = {
  suffixes: ["Connection", "Edge", "Payload"],
  types: [
    "PageInfo", "UserError", "Metric", "MetricSeries", "MetricBand", "SpecialValue",
    "HyperparamOverride", "Resources", "LogPart", "Artifact", "StatusCount", "Facet",
    "ComparedParam", "Recipe", "Actor", "Member", "RoleInProject", "Viewer", "SpecialCount",
    "Capacity", "LauncherCapacity", "GpuCount", "Usage", "ProjectUse", "Alert", "Removable",
  ],
};
const EDGES = { withEdgeSuffix: true, shouldImplementNode: true, listTypeCanWrapOnlyEdgeType: false };

async function lint(file) {
  const sdl = await readFile(file, "utf8");
  const eslint = new ESLint({
    overrideConfigFile: true,
    overrideConfig: {
      files: ["**/*.graphql"],
      languageOptions: { parser: plugin.parser, parserOptions: { graphQLConfig: { schema: file } } },
      plugins: { "@graphql-eslint": plugin },
      rules: {
        ...plugin.configs["flat/schema-recommended"].rules,
        ...plugin.configs["flat/schema-relay"].rules,
        // Values without an identity, and connections that also list their nodes, as GitHub's do.
        "@graphql-eslint/strict-id-in-types": ["error", { exceptions: VALUES }],
        "@graphql-eslint/relay-edge-types": ["error", EDGES],
      },
    },
  });
  const [{ messages }] = await eslint.lintText(sdl, { filePath: "schema.graphql" });
  return messages.map((m) => `${m.line}: ${m.message} (${m.ruleId})`);
}

const found = [];
for (const file of process.argv.slice(1)) found.push(await lint(file));
console.log(JSON.stringify(found));
