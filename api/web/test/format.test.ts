// SPDX-License-Identifier: Apache-2.0
import { expect, test } from 'vitest';
import {
  addDays,
  dayOf,
  formatDateTime,
  formatExact,
  formatPercent,
  formatSeconds,
  span,
  startOfDay,
} from '../src/format';

const SHANGHAI = { language: 'zh-CN', zone: 'Asia/Shanghai' };
const NOON = Date.parse('2026-11-21T04:00:00Z');

test('a percentage is rounded against whoever claims it', () => {
  expect(formatPercent(0.96999, 'en')).toBe('96.9 %');
  expect(formatPercent(0.96999, 'en', 'up')).toBe('97.0 %');
  expect(formatPercent(0.97, 'en')).toBe('97.0 %');
  expect(formatPercent(0.97, 'en', 'up')).toBe('97.0 %');
  expect(formatPercent(0.29, 'en')).toBe('29.0 %');
  expect(formatPercent(1, 'en')).toBe('100.0 %');
});

test('times are those of the community, not of the browser', () => {
  expect(formatSeconds('2026-11-21T10:00:01.120Z', SHANGHAI)).toBe('18:00:01');
  expect(formatExact('2026-11-21T10:00:01Z', SHANGHAI)).toMatch(/^2026\/11\/21 18:00:01 GMT\+8$/);
});

test('the date appears once the day is over, the year once the year is', () => {
  expect(formatDateTime('2026-11-20T16:30:00Z', NOON, SHANGHAI)).toBe('00:30');
  expect(formatDateTime('2026-11-20T15:30:00Z', NOON, SHANGHAI)).toBe('11月20日 23:30');
  expect(formatDateTime('2025-11-20T15:30:00Z', NOON, SHANGHAI)).toContain('2025');
});

test.each([
  ['2026-11-21', 'Asia/Shanghai', '2026-11-20T16:00:00.000Z'],
  ['2026-03-29', 'Europe/Berlin', '2026-03-28T23:00:00.000Z'],
  ['2026-03-30', 'Europe/Berlin', '2026-03-29T22:00:00.000Z'],
  ['2026-10-26', 'Europe/Berlin', '2026-10-25T23:00:00.000Z'],
])('the day %s begins in %s at %s', (day, zone, instant) => {
  expect(startOfDay(day, zone).toISOString()).toBe(instant);
  expect(dayOf(new Date(instant), zone)).toBe(day);
});

test('days are counted on the calendar', () => {
  expect(addDays('2026-03-01', -1)).toBe('2026-02-28');
  expect(addDays('2026-12-31', 1)).toBe('2027-01-01');
});

test.each([
  [-5_000, 'second', 0],
  [59_999, 'second', 59],
  [60_000, 'minute', 1],
  [3_599_000, 'minute', 59],
  [3_600_000, 'hour', 1],
  [86_400_000, 'day', 1],
] as const)('%i ms read as %s %i', (ms, unit, count) => {
  expect(span(ms)).toEqual({ unit, count });
});
