// SPDX-License-Identifier: Apache-2.0
import { describe, expect, test } from 'vitest';
import { freshness, type Link, serverNow } from '../src/live/link';
import { cookieLanguage, pickLanguage } from '../src/locale/pick';
import { placeholders } from '../src/ui/template';

describe('language', () => {
  test('is zh-CN unless something says otherwise', () => {
    expect(pickLanguage(null, [])).toBe('zh-CN');
    expect(pickLanguage(null, ['fr-FR'])).toBe('zh-CN');
  });

  test('what was chosen here comes before what the browser prefers', () => {
    expect(pickLanguage('zh-CN', ['en-US'])).toBe('zh-CN');
    expect(pickLanguage(null, ['fr', 'en-GB', 'zh'])).toBe('en');
    expect(pickLanguage(null, ['zh-TW'])).toBe('zh-CN');
  });

  test('is read from its own cookie', () => {
    expect(cookieLanguage('a=1; linli_language=en')).toBe('en');
    expect(cookieLanguage('my_linli_language=en')).toBeNull();
    expect(cookieLanguage('linli_language=tlh')).toBeNull();
  });
});

describe('freshness', () => {
  const link: Link = { heardAt: 100_000, dataAt: 500_000, since: 90_000 };

  test('data is stale after 30 s without an event', () => {
    expect(freshness(link, 130_000)).toBe('live');
    expect(freshness(link, 130_001)).toBe('stale');
  });

  test('a stream that never spoke is waited for, then missed', () => {
    const silent = { heardAt: null, dataAt: null, since: 0 };
    expect(freshness(silent, 5_000)).toBe('waiting');
    expect(freshness(silent, 31_000)).toBe('stale');
  });

  test('ages follow the clock of the server', () => {
    expect(serverNow(link, 101_500)).toBe(501_500);
  });
});

test('placeholders are found once each', () => {
  expect(placeholders('{{a}} of {{ b }}, {{a}}')).toEqual(['a', 'b']);
});
