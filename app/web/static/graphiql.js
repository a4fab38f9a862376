// Starts GraphiQL on this address, with the example operations of app/graphql/ide.py as tabs.
"use strict";

const { examples } = JSON.parse(document.getElementById("settings").textContent);
const url = new URL(location.pathname, location.origin);
const socket = new URL(url);
socket.protocol = url.protocol === "https:" ? "wss:" : "ws:";

ReactDOM.createRoot(document.getElementById("page")).render(
  React.createElement(GraphiQL, {
    fetcher: GraphiQL.createFetcher({ url: url.href, subscriptionUrl: socket.href }),
    plugins: [GraphiQLPluginExplorer.explorerPlugin()],
    defaultTabs: examples.map((query) => ({ query })),
    inputValueDeprecation: true,
  }),
);
