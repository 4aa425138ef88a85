// SPDX-License-Identifier: Apache-2.0
import { describe, expect, test } from 'vitest';
import type { Area, ChildArea, Gateway } from '../src/api/types';
import { uptimeScale } from '../src/screens/overview/scale';
import { sortedChildren, sortedGateways } from '../src/screens/overview/worst';
import { ancestors, listed } from '../src/ui/areas';
import { overview } from './fixtures';

function child(area: string, changes: Partial<ChildArea> = {}): ChildArea {
  return {
    area,
    name: area,
    name_en: null,
    devices: 88,
    fault: 0,
    offline: 0,
    unacknowledged: 0,
    critical: 0,
    uptime: { value: 0.98, lower: 0.98, upper: 0.98, verdict: 'met' },
    ...changes,
  };
}

const ids = (items: readonly { area: string }[]) => items.map(({ area }) => area);
const name = (item: ChildArea) => item.name;

describe('child areas', () => {
  const calm = child('calm');
  const dark = child('dark', {
    uptime: { value: 0.9, lower: 0.9, upper: 0.9, verdict: 'not_met' },
  });
  const broken = child('broken', { fault: 3 });
  const burning = child('burning', { critical: 1 });
  const mute = child('mute', { uptime: null });

  test('come worst first', () => {
    expect(ids(sortedChildren([calm, mute, dark, broken, burning], null, name, 'en'))).toEqual([
      'burning',
      'broken',
      'dark',
      'calm',
      'mute',
    ]);
  });

  test('are sorted by a column when asked', () => {
    const all = [broken, calm, dark];
    expect(ids(sortedChildren(all, { by: 'fault', descending: true }, name, 'en'))[0]).toBe(
      'broken',
    );
    expect(ids(sortedChildren(all, { by: 'uptime', descending: false }, name, 'en'))[0]).toBe(
      'dark',
    );
    expect(ids(sortedChildren(all, { by: 'name', descending: false }, name, 'en'))).toEqual([
      'broken',
      'calm',
      'dark',
    ]);
  });
});

test('silent gateways come first, then the fullest outbox', () => {
  const [model] = overview().gateways;
  const gateway = (id: string, changes: Partial<Gateway>) => ({
    ...(model as Gateway),
    gateway: id,
    ...changes,
  });
  const sorted = sortedGateways([
    gateway('a', {}),
    gateway('b', { outbox_messages: 40 }),
    gateway('c', { silent: true }),
  ]);
  expect(sorted.map((one) => one.gateway)).toEqual(['c', 'b', 'a']);
});

describe('uptime bar', () => {
  test('shows the part that matters, target included', () => {
    const scale = uptimeScale(0.978, 0.984, 0.97);
    expect(scale.from).toBeCloseTo(0.9);
    expect(scale.target).toBeCloseTo(0.7);
    expect(scale.lower).toBeCloseTo(0.78);
    expect(scale.upper).toBeCloseTo(0.84);
  });

  test('reaches down to a bad night and stays within 0 to 1', () => {
    expect(uptimeScale(0.31, 0.5, 0.97).from).toBeCloseTo(0.2);
    expect(uptimeScale(0, 1, 0.97)).toEqual({ from: 0, lower: 0, upper: 1, target: 0.97 });
  });
});

describe('areas', () => {
  const area = (id: string, parent: string | null, level: string): Area => ({
    area: id,
    parent,
    level,
    name: id,
    name_en: null,
    time_zone: 'Asia/Shanghai',
    children: 0,
  });
  const areas = new Map(
    [
      area('city', null, 'city'),
      area('c01', 'city', 'community'),
      area('c01-g1', 'c01', 'cell'),
      area('c02', 'city', 'community'),
      area('c02-g1', 'c02', 'cell'),
    ].map((one) => [one.area, one]),
  );
  const label = (one: Area) => one.name;
  const shown = (here: string, search: string) =>
    listed(areas, here, search, label).map(({ area: one, depth }) => `${depth}:${one.area}`);

  test('above are listed from the top', () => {
    expect(ancestors(areas, 'c01-g1').map((one) => one.area)).toEqual(['city', 'c01']);
    expect(ancestors(areas, 'nowhere')).toEqual([]);
  });

  test('cells are listed around here only', () => {
    expect(shown('c01', '')).toEqual(['0:city', '1:c01', '2:c01-g1', '1:c02']);
    expect(shown('c02-g1', '')).toEqual(['0:city', '1:c01', '1:c02', '2:c02-g1']);
  });

  test('a search finds cells everywhere', () => {
    expect(shown('city', 'g1')).toEqual(['2:c01-g1', '2:c02-g1']);
  });
});
