// Starts Swagger UI on the service's OpenAPI document.
"use strict";

const { openapi } = JSON.parse(document.getElementById("settings").textContent);

SwaggerUIBundle({
  url: openapi,
  dom_id: "#page",
  deepLinking: true,
  presets: [SwaggerUIBundle.presets.apis, SwaggerUIBundle.SwaggerUIStandalonePreset],
  layout: "BaseLayout",
  validatorUrl: null,
});
