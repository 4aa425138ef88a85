// SPDX-License-Identifier: Apache-2.0
/** What the build does beyond bundling: keeps the security policy, the size and the licences. */
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import type { Plugin } from 'vite';

/**
 * Swagger UI's style sheet holds its few pictures as data: addresses, which the content security
 * policy refuses: they become files.
 */
export const picturesAsFiles: Plugin = {
  name: 'pictures-as-files',
  apply: 'build',
  generateBundle(_options, bundle) {
    let count = 0;
    for (const sheet of Object.values(bundle)) {
      if (sheet.type !== 'asset' || !sheet.fileName.endsWith('.css')) continue;
      sheet.source = sheet.source
        .toString()
        .replace(
          /url\((["']?)data:image\/(\w+)[^,]*?(;base64)?,(.*?)\1\)/g,
          (_whole, _quote, type: string, base64: string | undefined, data: string) => {
            const fileName = `assets/picture-${count++}.${type}`;
            const source = base64
              ? Buffer.from(data, 'base64')
              : decodeURIComponent(data.replace(/\\(.)/g, '$1'));
            this.emitFile({ type: 'asset', fileName, source });
            return `url(/${fileName})`;
          },
        );
    }
  },
};

const FIRST_LOAD_MAX_BYTES = 100_000;
const LAZY_CHUNK_MAX_BYTES = 40_000;

/** Gzipped script: what the first screen loads, and any one chunk that comes later. */
export const sizeBudget: Plugin = {
  name: 'size-budget',
  apply: 'build',
  generateBundle(_options, bundle) {
    const chunks = Object.values(bundle).flatMap((file) => (file.type === 'chunk' ? [file] : []));
    const size = new Map(
      chunks.map((chunk) => [chunk.fileName, gzipSync(chunk.code, { level: 9 }).length]),
    );
    const entry = chunks.find((chunk) => chunk.isEntry && chunk.name === 'console');
    if (!entry) throw new Error('the build has no entry named console');
    const first = new Set([entry.fileName, ...entry.imports]);
    const lazy = chunks.filter((chunk) => !first.has(chunk.fileName) && chunk.name !== 'docs');
    for (const chunk of lazy) {
      const bytes = size.get(chunk.fileName) ?? 0;
      if (bytes > LAZY_CHUNK_MAX_BYTES) {
        this.error(`${chunk.fileName}: ${bytes} bytes gzipped, at most ${LAZY_CHUNK_MAX_BYTES}`);
      }
    }
    // The first screen needs one of the two languages and one screen: at most all lazy chunks.
    const total = [...first, ...lazy.map((chunk) => chunk.fileName)].reduce(
      (sum, name) => sum + (size.get(name) ?? 0),
      0,
    );
    if (total > FIRST_LOAD_MAX_BYTES) {
      this.error(`first load: ${total} bytes gzipped, at most ${FIRST_LOAD_MAX_BYTES}`);
    }
  },
};

/** The licences of the packages whose code is in the bundle, beside it. */
export const notices: Plugin = {
  name: 'notices',
  apply: 'build',
  generateBundle(_options, bundle) {
    const folders = new Set<string>();
    for (const file of Object.values(bundle)) {
      if (file.type !== 'chunk') continue;
      for (const id of file.moduleIds) {
        const folder = /^.*\/node_modules\/(?:@[^/]+\/)?[^/]+\//.exec(id)?.[0];
        if (folder) folders.add(folder);
      }
    }
    const texts = [...folders].sort().map((folder) => {
      const about: { name: string; version: string; license: string } = JSON.parse(
        readFileSync(join(folder, 'package.json'), 'utf8'),
      );
      const files = readdirSync(folder)
        .filter((name) => /^(licen[cs]e|notice)/i.test(name) && !name.endsWith('.js'))
        .map((name) => readFileSync(join(folder, name), 'utf8').trim());
      return [`${about.name} ${about.version} (${about.license})`, ...files].join('\n\n');
    });
    const source = `${texts.join(`\n\n${'-'.repeat(80)}\n\n`)}\n`;
    this.emitFile({ type: 'asset', fileName: 'THIRD-PARTY-NOTICES.txt', source });
  },
};
