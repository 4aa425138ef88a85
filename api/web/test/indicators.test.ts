// SPDX-License-Identifier: Apache-2.0
import { describe, expect, test } from 'vitest';
import type { Indicator, IndicatorDefinition, IndicatorRevision } from '../src/api/types';
import { formatMonth } from '../src/format';
import { axisOf, barOf, placeOn, roundUp, slotsOf } from '../src/screens/indicators/bounds';
import { figure, plainFigure } from '../src/screens/indicators/figures';
import { missing } from '../src/screens/indicators/missing';
import { daysIn, daysOf, lastMonths, windowOf } from '../src/screens/indicators/month';
import { before, ofDays, partsOf } from '../src/screens/indicators/parts';

function definition(changes: Partial<IndicatorDefinition> = {}): IndicatorDefinition {
  return {
    indicator: 'lighting-uptime',
    domain: 'lighting',
    shape: 'share',
    unit: 'fraction',
    parts_unit: 's',
    by_kind: false,
    name: {},
    formula: {},
    target: { value: 0.97, better: 'high', source: 'R0', source_name: {} },
    rule_version: 1,
    ...changes,
  };
}

function indicator(changes: Partial<Indicator> = {}): Indicator {
  return {
    from: '2026-11-01',
    to: '2026-11-22',
    label: '',
    kind: '',
    value: 0.98,
    lower: 0.96,
    upper: 0.99,
    coverage: 0.97,
    p90: null,
    numerator: 950_600,
    denominator: 970_000,
    total: 1_000_000,
    excluded: {},
    subjects: 60,
    verdict: 'undetermined',
    target: 0.97,
    revision: 1,
    status: 'provisional',
    ...changes,
  };
}

describe('a figure', () => {
  const say = (...args: Parameters<typeof figure>) => {
    const { text, unit } = figure(...args);
    return `${text} ${unit}`;
  };

  test.each([
    [0.9696, 'fraction', '97.0 percent'],
    [1.5, 'per_mille_year', '1.50 per_mille_year'],
    [42, 's', '42 second'],
    [90, 's', '1.5 minute'],
    [5400, 's', '1.5 hour'],
    [0, 's', '0 hour'],
    [40_000_000, 's', '11,111 hour'],
    [1234.56, 'kg', '1,234.6 kg'],
    [0.5, 'kWh', '0.5 kwh'],
    [12_345, 'count', '12,345 count'],
  ] as const)('of %d %s reads %s', (value, unit, expected) => {
    expect(say(value, unit, 'en')).toBe(expected);
  });

  test('never reaches its target, nothing or all by rounding', () => {
    const target = { target: 0.97 } as const;
    expect(say(0.9696, 'fraction', 'en', { ...target, rounding: 'down' })).toBe('96.9 percent');
    expect(say(0.96999, 'fraction', 'en', target)).toBe('96.999 percent');
    expect(say(0.96999, 'fraction', 'en', { ...target, rounding: 'up' })).toBe('96.999 percent');
    expect(say(0.97, 'fraction', 'en', target)).toBe('97.0 percent');
    expect(say(0.9999, 'fraction', 'en', { rounding: 'up' })).toBe('99.99 percent');
    expect(say(0.0004, 'fraction', 'en', { rounding: 'down' })).toBe('0.04 percent');
    expect(say(1.501, 'per_mille_year', 'en', { target: 1.5 })).toBe('1.501 per_mille_year');
  });

  test('that somebody set has no digits of its own', () => {
    expect(plainFigure(0.97, 'fraction', 'en')).toEqual({ text: '97', unit: 'percent' });
    expect(plainFigure(0.29, 'fraction', 'en').text).toBe('29');
    expect(plainFigure(1200, 's', 'en')).toEqual({ text: '20', unit: 'minute' });
  });
});

describe('the bounds bar', () => {
  test('of a share ends at 1 and shows the part that matters', () => {
    const bar = barOf(indicator(), 'fraction');
    expect(bar?.axis).toEqual({ from: 0.9, to: 1 });
    expect(bar?.lower).toBeCloseTo(0.6);
    expect(bar?.value).toBeCloseTo(0.8);
    expect(bar?.upper).toBeCloseTo(0.9);
    expect(bar?.target).toBeCloseTo(0.7);
  });

  test('of a rate begins at 0 and holds interval and target', () => {
    const bar = barOf(
      indicator({ value: 0.5, lower: 0.01, upper: 2.8, target: 1.5 }),
      'per_mille_year',
    );
    expect(bar?.axis).toEqual({ from: 0, to: 5 });
    expect(bar?.target).toBeCloseTo(0.3);
  });

  test('of times that still run is open at its end', () => {
    const bar = barOf(
      indicator({ value: 300, lower: 240, upper: null, p90: 800, target: null }),
      's',
    );
    expect(bar).toMatchObject({ axis: { from: 0, to: 1200 }, upper: 1, endless: true });
    expect(bar?.target).toBeNull();
  });

  test('is not drawn where there are no bounds', () => {
    expect(barOf(indicator({ lower: null, upper: null }), 'count')).toBeNull();
  });

  test('never leaves its frame', () => {
    expect(placeOn({ from: 0.9, to: 1 }, 0.2)).toBe(0);
    expect(axisOf('fraction', [null, 0])).toEqual({ from: 0, to: 1 });
    expect([0, 1, 3, 21, 1000].map(roundUp)).toEqual([1, 1, 5, 25, 1000]);
  });
});

test('days without a number stay in the chart as gaps', () => {
  const item = indicator({ label: '2026-11-02' });
  expect(slotsOf(['2026-11-01', '2026-11-02'], [item])).toEqual([
    { day: '2026-11-01', item: null },
    { day: '2026-11-02', item },
  ]);
});

describe('a number is missing', () => {
  const share = definition();
  const none = { value: null, lower: null, upper: null, coverage: null };

  test('never where there is one', () => {
    expect(missing(share, indicator())).toBeNull();
    expect(missing(definition({ shape: 'sum' }), indicator({ value: 0 }))).toBeNull();
    expect(missing(definition({ shape: 'rate' }), indicator({ value: 0 }))).toBeNull();
  });

  test.each([
    ['nothing is stored', share, null, 'no_data'],
    ['all is unknown', share, { ...none, total: 50 }, 'no_data'],
    ['nothing counted', share, { ...none, total: 0 }, 'nothing_counted'],
    ['residents are not known', definition({ shape: 'rate' }), none, 'no_population'],
    ['nothing happened', definition({ shape: 'times' }), { ...none, total: 0 }, 'no_cases'],
    ['nothing was stored of times', definition({ shape: 'times' }), null, 'no_cases'],
    ['all still run', definition({ shape: 'times' }), { ...none, total: 3 }, 'unfinished'],
    ['none is settled', definition({ domain: 'security' }), { ...none, total: 3 }, 'unsettled'],
    [
      'no repair is late or done',
      definition({ domain: 'equipment', parts_unit: 'count' }),
      { ...none, total: 3 },
      'unsettled',
    ],
    ['a sum over nobody', definition({ shape: 'sum' }), { value: 0, subjects: 0 }, 'no_data'],
    [
      'all in maintenance',
      definition({ shape: 'sum' }),
      { value: 0, subjects: 0, excluded: { maintenance: 4 } },
      'nothing_counted',
    ],
  ] as const)('because %s', (_why, of, changes, expected) => {
    expect(missing(of, changes === null ? null : indicator(changes))).toBe(expected);
  });
});

describe('months', () => {
  test('are listed from the present one back, over the turn of the year', () => {
    const months = lastMonths('2026-02-28', 12);
    expect(months.slice(0, 3)).toEqual(['2026-02', '2026-01', '2025-12']);
    expect(months).toHaveLength(12);
  });

  test('end with today while they run', () => {
    expect(windowOf('2026-11', '2026-11-22')).toEqual({ from: '2026-11-01', to: '2026-11-23' });
    expect(windowOf('2026-11', '2026-11-30')).toEqual({ from: '2026-11-01', to: '2026-12-01' });
    expect(windowOf('2026-10', '2026-11-22')).toEqual({ from: '2026-10-01', to: '2026-11-01' });
    expect(daysIn(windowOf('2026-11', '2026-11-22'))).toBe(22);
  });

  test('have all their days', () => {
    expect(daysOf('2028-02')).toHaveLength(29);
    expect(daysOf('2026-12').at(-1)).toBe('2026-12-31');
  });

  test('are named in the language', () => {
    expect(formatMonth('2026-11', 'en')).toBe('November 2026');
  });
});

describe('what a number counts', () => {
  const names = (...args: Parameters<typeof partsOf>) =>
    partsOf(...args).map(({ name, amount }) => `${name} ${amount}`);

  test('of a share is known, good, unknown and all', () => {
    expect(names(definition(), indicator(), 21)).toEqual([
      'good 950600',
      'known 970000',
      'unknown 30000',
      'total 1000000',
      'devices 60',
    ]);
  });

  test('of a rate is cases and people, on average only where all days are known', () => {
    const rate = definition({ shape: 'rate', domain: 'security', parts_unit: 'count' });
    const item = indicator({ numerator: 2, denominator: 63_000, total: null, coverage: 1 });
    expect(names(rate, item, 21)).toEqual(['cases 2', 'person_days 63000', 'residents 3000']);
    expect(names(rate, { ...item, coverage: 0.5 }, 21)).toEqual(['cases 2', 'person_days 63000']);
  });

  test('of times is how many are finished', () => {
    const times = definition({ shape: 'times', domain: 'security' });
    const item = indicator({ numerator: 5, denominator: null, total: 7 });
    expect(names(times, item, 21)).toEqual(['finished 5', 'unfinished 2']);
  });

  test('on single days of a rate is the cases themselves', () => {
    const rate = definition({ shape: 'rate', unit: 'per_mille_year' });
    const shown = ofDays(rate, [indicator({ value: 60, numerator: 1 })]);
    expect(shown.definition).toMatchObject({ shape: 'sum', unit: 'count', target: null });
    expect(shown.items[0]).toMatchObject({ value: 1, lower: null, upper: null });
  });

  test('all classes together are one number a day', () => {
    const shown = ofDays(definition(), [indicator(), indicator({ kind: 'lamp' })]);
    expect(shown.items.map(({ kind }) => kind)).toEqual(['']);
  });
});

test('a restated number says what it was', () => {
  const revision: IndicatorRevision = {
    area: 'c01',
    kind: '',
    day: '2026-11-20',
    revision: 1,
    numerator: 45,
    denominator: 50,
    total: 100,
    computed_at: '2026-11-21T02:00:00.000Z',
    replaced_at: '2026-11-21T05:00:00.000Z',
    reason: 'late',
  };
  expect(before(definition(), revision)).toEqual({ value: 0.9, unit: 'fraction', coverage: 0.5 });
  const nothing = { ...revision, numerator: 0, denominator: 0 };
  expect(before(definition(), nothing).value).toBeNull();
  expect(before(definition({ shape: 'sum', parts_unit: 'kWh' }), revision)).toEqual({
    value: 45,
    unit: 'kWh',
    coverage: null,
  });
});
