// SPDX-License-Identifier: Apache-2.0
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest';
import type { Area } from '../src/api/types';

// What is asked of a browser to find its language.
vi.stubGlobal('document', { cookie: '', documentElement: { lang: '' } });
vi.stubGlobal('navigator', { languages: [] });

const { setLanguage, startLanguage } = await import('../src/i18n');
const { areas } = await import('../src/session');
const { seenValues } = await import('../src/screens/alerts/seen');
const { alertDetail, causeName } = await import('../src/ui/words');

const STREAM = '0193f1c8-6f2a-7b3e-9d51-2f0c6f0a4b11';
const CELL: Area = {
  area: 'c01-g01',
  parent: 'c01',
  level: 'cell',
  name: '南门',
  name_en: 'South gate',
  time_zone: 'Asia/Shanghai',
  children: 0,
};

function seen(rule: string, params: Record<string, unknown>): readonly (readonly string[])[] {
  return seenValues({ rule, params }).map(({ label, word }) => [label, word]);
}

beforeAll(async () => {
  await startLanguage();
  areas.value = new Map([[CELL.area, CELL]]);
});

afterAll(() => {
  vi.unstubAllGlobals();
});

describe.each([
  {
    language: 'zh-CN',
    messages: '消息流',
    bin: ['类别', '厨余垃圾'],
    last: '2026/11/21 18:05:09',
    zone: '防区 南门',
    reason: ['原因', '设备未登记'],
    circuit: '回路 c01-a 故障',
  },
  {
    language: 'en',
    messages: 'Message stream',
    bin: ['Waste stream', 'Kitchen waste'],
    last: '11/21/2026, 18:05:09',
    zone: 'Zone South gate',
    reason: ['Reason', 'The device is not registered'],
    circuit: 'Circuit c01-a has failed',
  },
] as const)('what a rule saw, $language', (texts) => {
  beforeAll(() => setLanguage(texts.language, { remember: false }));

  test('a stream of messages is no waste stream', () => {
    for (const rule of ['stream.hole', 'stream.lost']) {
      expect(seen(rule, { stream: STREAM })).toEqual([[texts.messages, STREAM]]);
    }
    expect(seen('bin.full', { stream: 'kitchen' })).toEqual([texts.bin]);
  });

  test.each([
    ['gateway.silent', 'last_seen_at'],
    ['device.silent', 'last_at'],
  ])('%s tells %s by the clocks of the area', (rule, name) => {
    const [told] = seenValues({ rule, params: { [name]: '2026-11-21T10:05:09.120000+00:00' } });
    expect(told?.word).toContain(texts.last);
  });

  test('a zone that is a grid cell has its name, another one is as it was told', () => {
    expect(alertDetail({ rule: 'alarm.smoke', params: { zone: CELL.area } })).toBe(texts.zone);
    expect(seen('alarm.smoke', { zone: 'roof' })[0]?.[1]).toBe('roof');
  });

  test('why something was refused is a sentence', () => {
    expect(seen('gateway.refused', { reason: 'device.unknown' })).toEqual([texts.reason]);
  });

  test('a circuit has its own name, not the key of its cause', () => {
    expect(causeName('circuit:c01/c01-a')).toBe(texts.circuit);
  });
});
