// The OpenAPI document of the console, for reading only.
"use strict";

document.addEventListener("DOMContentLoaded", () => {
  const options = JSON.parse(document.getElementById("api-document-options").textContent);
  SwaggerUIBundle({
    ...options,
    dom_id: "#api-document",
    presets: [SwaggerUIBundle.presets.apis],
    docExpansion: "list",
    defaultModelsExpandDepth: 0,
    supportedSubmitMethods: [],
    validatorUrl: null,
  });
});
