// A web client with a normalised cache: pages through an experiment's runs, marks a checkpoint,
// and looks at what the cache made of both. Arguments: address, experiment, run, checkpoint path.
import { Client, fetchExchange } from "@urql/core";
import { cacheExchange } from "@urql/exchange-graphcache";
import { relayPagination } from "@urql/exchange-graphcache/extras";

const [url, experiment, run, ckptPath] = process.argv.slice(1);
const complaints = [];
console.warn = console.error = (...message) => complaints.push(message.join(" "));

const cache = cacheExchange({ resolvers: { Experiment: { runs: relayPagination() } } });
const client = new Client({ url, exchanges: [cache, fetchExchange], preferGetMethod: false });
const RUNS = `
  query Runs($id: ID!, $after: String) {
    experiment(id: $id) {
      id
      runs(first: 2, after: $after) {
        edges { node { id checkpoints(first: 5) { nodes { id ckptPath tagType } } } }
        pageInfo { hasNextPage endCursor }
      }
    }
  }`;
const MARK = `
  mutation Mark($input: MarkCheckpointInput!) {
    markCheckpoint(input: $input) { checkpoint { id tagType } userErrors { code message } }
  }`;

async function ask(operation) {
  const { data, error } = await operation.toPromise();
  if (error) throw error;
  return data;
}

const pages = [];
for (let after = null, more = true; more; ) {
  const { runs } = (await ask(client.query(RUNS, { id: experiment, after }))).experiment;
  pages.push(runs.edges.map((edge) => edge.node.id));
  after = runs.pageInfo.endCursor;
  more = runs.pageInfo.hasNextPage;
}
const input = { runId: run, ckptPath, tagType: "release" };
await ask(client.mutation(MARK, { input }));
const cached = await ask(
  client.query(RUNS, { id: experiment, after: null }, { requestPolicy: "cache-only" }),
);
const tags = Object.fromEntries(
  cached.experiment.runs.edges.flatMap(({ node }) =>
    node.checkpoints.nodes.map((checkpoint) => [checkpoint.ckptPath, checkpoint.tagType]),
  ),
);
console.log(JSON.stringify({ pages, tags, complaints }));
