"use strict";
(() => {
  const byId = (id) => document.getElementById(id);
  const { root, away, refused } = JSON.parse(byId("settings").textContent);

  async function signIn(body) {
    byId("button").disabled = true;
    byId("wrong").textContent = "";
    try {
      const response = await fetch(new URL(root + "session", location.href), {
        method: "POST",
        headers: { "Content-Type": "application/json" },
        body: JSON.stringify(body),
      });
      if (response.ok) return location.reload();
      // The service's own sentence: behind a proxy it is often about the Origin, not the token.
      const { code, detail } = await response.json();
      byId("wrong").textContent = refused[code] ?? detail;
    } catch {
      byId("wrong").textContent = away;
    }
    byId("button").disabled = false;
  }

  byId("form").addEventListener("submit", (event) => {
    event.preventDefault();
    signIn({ token: byId("token").value.trim() });
  });
  const single = byId("single");
  // Where the page was asked for in full, of which the service has not seen the part after `#`.
  if (single) single.href += encodeURIComponent(location.search + location.hash);
  const code = /^#code=(.+)$/.exec(location.hash);
  if (code) {
    history.replaceState(null, "", location.pathname + location.search);
    signIn({ code: decodeURIComponent(code[1]) });
  }
})();
