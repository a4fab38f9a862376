// A certified OpenID provider for tests: whoever signs in is who they say they are.
import { createServer } from "node:http";
import Provider from "oidc-provider";

const { PORT, REDIRECT, SECRET } = process.env;
const people = JSON.parse(process.env.PEOPLE);
const issuer = `http://127.0.0.1:${PORT}`;
const provider = new Provider(issuer, {
  clients: [{ client_id: "llm-train", client_secret: SECRET, redirect_uris: [REDIRECT] }],
  claims: {
    openid: ["sub"],
    profile: ["preferred_username", "groups"],
    email: ["email", "email_verified"],
  },
  findAccount: (_, sub) => ({
    accountId: sub,
    claims: () => ({ sub, ...people[sub] }),
  }),
  pkce: { required: () => true },
});
createServer(provider.callback()).listen(Number(PORT), "127.0.0.1", () => console.log(issuer));
