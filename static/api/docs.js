// The page of the API: Swagger UI on our own schema; requests that are tried out carry the session's CSRF token.
"use strict";
const place = document.getElementById("api");
window.SwaggerUIBundle({
  url: place.dataset.schema,
  domNode: place,
  deepLinking: true,
  docExpansion: "none", // of more than 129 operations, all open, Swagger UI 5 draws nine
  filter: true,
  validatorUrl: null,
  showMutatedRequest: false,
  defaultModelsExpandDepth: 0,
  requestInterceptor: (request) => {
    if (new URL(request.url, location.href).origin === location.origin) request.headers["X-CSRFToken"] = place.dataset.csrf;
    return request;
  },
});
