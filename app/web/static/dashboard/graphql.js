// The service: queries and mutations by POST, everything live over one WebSocket a tab.
// Event streams (SSE) would fail: a browser opens six HTTP/1.1 connections to a host, so with six tabs
// open none is left, and a pressed Cancel is not sent. WebSockets have a limit of their own.
import { signal } from "@preact/signals";
import { root } from "./route.js";
import { refusal } from "./service.js";
import { t } from "./words.js";

/** @typedef {import("./generated.js").Operations} Operations */
/**
 * @template {keyof Operations} N
 * @typedef {import("./generated.js").Document<N>} Document
 */

/** @type {import("@preact/signals").Signal<"connecting" | "live" | "away">} */
export const connection = signal("connecting");
/** True once the session has ended: the user must sign in again. */
export const signedOut = signal(false);

const url = new URL("graphql", root);
const PING_SECONDS = 20;

/** An error of the service, or of a service that cannot be reached. */
export class Refused extends Error {
  /** @param {string} message @param {string} code */
  constructor(message, code) {
    super(message);
    this.code = code;
  }
}

/** Responses to prefetched requests, by request body.
 * @type {Map<string, Promise<any>>} */
const early = new Map();
/** Milliseconds for which a prefetched response may be used. */
const EARLY_MS = 1000;

/**
 * Send a query of the next page before that page is rendered: the service works meanwhile. The first
 * `ask` with the same document and variables gets this response.
 *
 * @template {keyof Operations} N
 * @param {Document<N>} document
 * @param {Operations[N]["variables"]} variables
 */
export function askEarly(document, variables) {
  const body = JSON.stringify({ query: document, variables });
  if (early.has(body)) return;
  const answer = post(body);
  answer.catch(() => {}); // otherwise an unhandled rejection; the caller of `ask` gets it
  early.set(body, answer);
  setTimeout(() => early.delete(body), EARLY_MS);
}

/**
 * @template {keyof Operations} N
 * @param {Document<N>} document
 * @param {Operations[N]["variables"]} variables
 * @returns {Promise<Operations[N]["result"]>}
 */
export function ask(document, variables) {
  const body = JSON.stringify({ query: document, variables });
  const known = early.get(body);
  early.delete(body);
  return known ?? post(body);
}

/** @param {string} body @returns {Promise<any>} */
async function post(body) {
  const response = await fetch(url, {
    method: "POST",
    headers: { "Content-Type": "application/json", Accept: "application/json" },
    body,
  }).catch(() => {
    throw new Refused(t("The service does not answer."), "UNREACHABLE");
  });
  if (response.status === 401) signedOut.value = true;
  else if (signedOut.value) {
    signedOut.value = false;
    connect();
  }
  const answer = await response.json().catch(() => {
    throw new Refused(t("The service does not answer."), "UNREACHABLE");
  });
  if (answer.errors) {
    const { message, extensions } = answer.errors[0], code = extensions?.code ?? "";
    throw new Refused(refusal({ code, message }), code);
  }
  for (const payload of Object.values(answer.data))
    for (const error of payload?.userErrors ?? []) error.message = refusal(error);
  return answer.data;
}

/** An idempotency key: the service runs a mutation once, however often it is sent. */
export const once = () => Array.from(crypto.getRandomValues(new Uint32Array(4)), (part) => part.toString(36)).join("");

/**
 * @typedef {object} Watch
 * @property {string} document
 * @property {object} variables read again after a reconnect: the caller advances its cursor
 * @property {(data: any) => void} next
 * @property {() => void} [resumed]
 */

/** @type {Map<string, Watch>} */
const watches = new Map();
/** @type {WebSocket | null} */
let socket = null;
let ready = false;
let count = 0;
let failures = 0;
let broken = false;

/**
 * Call `next` with each response until the returned function is called. After a reconnect it subscribes
 * again, with the current `variables`, and calls `resumed`, which can query what was missed.
 *
 * @template {keyof Operations} N
 * @param {Document<N>} document
 * @param {Operations[N]["variables"]} variables
 * @param {(data: Operations[N]["result"]) => void} next
 * @param {() => void} [resumed]
 * @returns {() => void}
 */
export function watch(document, variables, next, resumed) {
  const id = `w${++count}`;
  watches.set(id, { document, variables, next, resumed });
  if (ready) begin(id);
  else connect();
  return () => {
    if (!watches.delete(id)) return;
    if (ready) send({ id, type: "complete" });
  };
}

/** @param {object} message */
const send = (message) => socket?.send(JSON.stringify(message));

/** @param {string} id */
function begin(id) {
  const found = watches.get(id);
  if (!found || !ready) return;
  send({ id, type: "subscribe", payload: { query: found.document, variables: found.variables } });
}

/** Open the tab's WebSocket, and open it again whenever it breaks. Its state is shown on each page. */
export function connect() {
  if (socket || signedOut.value) return;
  const there = new URL(url);
  there.protocol = there.protocol === "https:" ? "wss:" : "ws:";
  const opened = (socket = new WebSocket(there, "graphql-transport-ws"));
  let answered = true;
  // Proxies close an idle connection, and `onclose` is not called when the network is gone.
  const pings = setInterval(() => {
    if (!ready) return;
    if (!answered) return opened.close(4000);
    answered = false;
    send({ type: "ping" });
  }, PING_SECONDS * 1000);
  opened.onopen = () => send({ type: "connection_init" });
  opened.onmessage = ({ data }) => {
    answered = true;
    const message = JSON.parse(data);
    if (message.type === "connection_ack") acknowledged();
    else if (message.type === "next") {
      if (message.payload.data) watches.get(message.id)?.next(message.payload.data);
    } else if (message.type === "ping") send({ type: "pong" });
    else if (message.type === "complete") watches.delete(message.id);
    else if (message.type === "error") failed(message.id, message.payload?.[0]);
  };
  opened.onclose = ({ code }) => {
    clearInterval(pings);
    socket = null;
    ready = false;
    if (code === 4403) signedOut.value = true;
    failures += 1;
    broken = true;
    connection.value = failures > 1 ? "away" : "connecting";
    setTimeout(connect, Math.min(15_000, 250 * 2 ** failures) * (0.5 + Math.random() / 2));
  };
}

function acknowledged() {
  const again = broken;
  ready = true;
  broken = false;
  failures = 0;
  connection.value = "live";
  for (const [id, { resumed }] of [...watches]) {
    begin(id);
    if (again) resumed?.();
  }
}

/** Handle a refused subscription: try again where the error is temporary.
 * @param {string} id @param {{ message: string, extensions?: { code: string } } | undefined} error */
function failed(id, error) {
  const code = error?.extensions?.code ?? "";
  if (/^(BUSY|UNAVAILABLE|TIMEOUT)$/.test(code)) setTimeout(begin, 5_000, id);
  else {
    watches.delete(id);
    if (code !== "NOT_FOUND") console.error(error?.message);
  }
}
