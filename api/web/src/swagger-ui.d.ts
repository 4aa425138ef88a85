// SPDX-License-Identifier: Apache-2.0
/** The one call we make; the package brings no types. */
declare module 'swagger-ui-dist/swagger-ui-es-bundle.js' {
  interface Options {
    readonly url: string;
    readonly dom_id: string;
    readonly deepLinking: boolean;
    readonly validatorUrl: null;
  }
  export default function SwaggerUIBundle(options: Options): void;
}
