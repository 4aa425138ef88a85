// SPDX-License-Identifier: Apache-2.0
/** The API documentation, complete without any network but the api itself. */
import 'swagger-ui-dist/swagger-ui.css';
import SwaggerUIBundle from 'swagger-ui-dist/swagger-ui-es-bundle.js';

SwaggerUIBundle({
  url: '/api/v1/openapi.json',
  dom_id: '#docs',
  deepLinking: true,
  // The default sends the document to a public validator.
  validatorUrl: null,
});
