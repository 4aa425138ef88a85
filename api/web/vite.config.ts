// SPDX-License-Identifier: Apache-2.0
/** Build of the console: two pages (the console, the API documentation) into `api/static`. */
import { fileURLToPath } from 'node:url';
import { defineConfig } from 'vitest/config';
import { notices, picturesAsFiles, sizeBudget } from './vite.plugins';

const here = (path: string): string => fileURLToPath(new URL(path, import.meta.url));

export default defineConfig({
  plugins: [picturesAsFiles, sizeBudget, notices],
  oxc: { jsx: { runtime: 'automatic', importSource: 'preact' } },
  build: {
    // Chromium 94 is what the browsers of domestic desktops are built on; they lag by years.
    target: ['chrome94', 'firefox102', 'safari15.4'],
    outDir: here('../static'),
    emptyOutDir: true,
    // No data: addresses: the content security policy is default-src 'self'.
    assetsInlineLimit: 0,
    // The API documentation alone is larger than this.
    chunkSizeWarningLimit: 2000,
    rolldownOptions: { input: { console: here('index.html'), docs: here('docs/index.html') } },
  },
  server: {
    host: '127.0.0.1',
    // A running api for development; its address is a matter of whoever develops.
    proxy: { '/api': process.env.LINLI_API_URL ?? 'http://127.0.0.1:8080' },
    fs: { allow: [here('../..')] },
  },
  test: { include: ['test/**/*.test.ts'], environment: 'node' },
});
