// Runs every GraphQL over HTTP audit against the address given; prints [{name, status, reason}].
import { serverAudits } from "graphql-http";

const [url] = process.argv.slice(1);
const results = [];
for (const audit of serverAudits({ url, fetchFn: fetch })) {
  const { name, status, reason } = await audit.fn();
  results.push({ name, status, reason });
}
console.log(JSON.stringify(results));
