// The REST API, for what GraphQL does not have: webhooks.
import { Refused, once, signedOut } from "./graphql.js";
import { root } from "./route.js";
import { t } from "./words.js";

/**
 * Asks for a path below /v1, and returns the answer, or null where it has none.
 *
 * @param {string} method @param {string} path @param {object} [body]
 * @returns {Promise<any>}
 */
export async function rest(method, path, body) {
  const response = await fetch(new URL(`v1/${path}`, root), {
    method,
    headers: body ? { "Content-Type": "application/json", ...(method === "POST" ? { "Idempotency-Key": once() } : {}) } : {},
    body: body ? JSON.stringify(body) : undefined,
  }).catch(() => {
    throw new Refused(t("The service does not answer."), "UNREACHABLE");
  });
  if (response.status === 401) signedOut.value = true;
  if (response.status === 204) return null;
  const answer = await response.json().catch(() => null);
  if (!response.ok) throw new Refused(answer?.detail ?? t("The service does not answer."), answer?.code ?? "");
  return answer;
}
