// SPDX-License-Identifier: Apache-2.0
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import storedEn from '../../../ingest/locales/en.json';
import storedZh from '../../../ingest/locales/zh-CN.json';
import shownEn from '../../locales/en.json';
import shownZh from '../../locales/zh-CN.json';
import indicatorsEn from '../src/locale/indicators.en.json';
import indicatorsZh from '../src/locale/indicators.zh-CN.json';
import { placeholders } from '../src/ui/template';

type Catalogue = Readonly<Record<string, string>>;
const PAIRS: readonly (readonly [string, Catalogue, Catalogue])[] = [
  ['api/locales', shownZh, shownEn],
  ['ingest/locales', storedZh, storedEn],
  ['locale/indicators', indicatorsZh, indicatorsEn],
];
const CJK = /[\u2e80-\u9fff\uf900-\ufaff\uff00-\uffef]/;

describe.each(PAIRS)('%s', (_name, zh, en) => {
  test('has the same keys in both languages', () => {
    expect(Object.keys(en).sort()).toEqual(Object.keys(zh).sort());
  });

  test('has no empty text', () => {
    for (const catalogue of [zh, en]) {
      expect(Object.keys(catalogue).filter((key) => !catalogue[key]?.trim())).toEqual([]);
    }
  });

  test('has equal placeholders in both languages', () => {
    const sorted = (text: string | undefined) => [...placeholders(text ?? '')].sort();
    const differing = Object.keys(zh).filter(
      // The singular may say "one" instead of a number.
      (key) => !key.endsWith('_one') && `${sorted(zh[key])}` !== `${sorted(en[key])}`,
    );
    expect(differing).toEqual([]);
  });

  test('speaks English in English', () => {
    const foreign = Object.keys(en).filter((key) => CJK.test(en[key] ?? ''));
    expect(foreign.filter((key) => key !== 'language.zh-CN')).toEqual([]);
  });
});

test('no key stands in two catalogues', () => {
  const keys = PAIRS.flatMap(([, zh]) => Object.keys(zh));
  expect(keys.filter((key, index) => keys.indexOf(key) !== index)).toEqual([]);
});

const SOURCE = join(import.meta.dirname, '../src');
const sources = readdirSync(SOURCE, { recursive: true, encoding: 'utf8' })
  .filter((name) => /\.(tsx?|css)$/.test(name))
  .map((name) => [name, readFileSync(join(SOURCE, name), 'utf8')] as const);

test('the source holds no Chinese text: it belongs into the catalogue', () => {
  expect(sources.filter(([, text]) => CJK.test(text)).map(([name]) => name)).toEqual([]);
});

test('the source names no address outside the machine', () => {
  expect(sources.filter(([, text]) => /https?:\/\//.test(text)).map(([name]) => name)).toEqual([]);
});

test('every text of the console is used', () => {
  const code = sources.map(([, text]) => text).join('\n');
  const used = (key: string): boolean => {
    const base = key.replace(/_(one|other)$/, '');
    if (code.includes(`'${base}'`) || code.includes(`"${base}"`)) return true;
    // Keys made at run time: `alerts.tab.${tab}` and the like.
    const prefix = base.slice(0, base.lastIndexOf('.') + 1);
    return code.includes(`\`${prefix}\${`);
  };
  const shown = [...Object.keys(shownZh), ...Object.keys(indicatorsZh)];
  expect(shown.filter((key) => !used(key))).toEqual([]);
});
