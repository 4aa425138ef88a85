// SPDX-License-Identifier: Apache-2.0
import { describe, expect, test } from 'vitest';
import { arrange, asTab, counts, matches, sorted, tabOf } from '../src/screens/alerts/arrange';
import { mayAcknowledge } from '../src/screens/alerts/rights';
import { alert } from './fixtures';

describe('tabs', () => {
  test.each([
    [true, false, 'unacknowledged'],
    [true, true, 'acknowledged'],
    [false, false, 'recovered'],
    [false, true, 'history'],
  ] as const)('active %s, acknowledged %s stands in %s', (active, acknowledged, tab) => {
    expect(tabOf({ active, acknowledged, latched: false })).toBe(tab);
  });

  test('one that waits for its reset is not closed', () => {
    expect(tabOf({ active: false, acknowledged: true, latched: true })).toBe('recovered');
  });

  test('every open alert is counted once', () => {
    const alerts = [alert(), alert({ acknowledged: true }), alert({ active: false })];
    expect(counts(alerts)).toEqual({ unacknowledged: 1, acknowledged: 1, recovered: 1 });
  });

  test('an unknown tab is the default one', () => {
    expect(asTab('nonsense')).toBe('unacknowledged');
    expect(asTab(undefined)).toBe('unacknowledged');
    expect(asTab('history')).toBe('history');
  });
});

test('a property manager is not offered what only the police may acknowledge', () => {
  expect(mayAcknowledge('property', 'lamp.dark')).toBe(true);
  expect(mayAcknowledge('property', 'gate.held_open')).toBe(true);
  expect(mayAcknowledge('property', 'gate.forced')).toBe(false);
  expect(mayAcknowledge('property', 'alarm.smoke')).toBe(false);
  expect(mayAcknowledge('police', 'alarm.smoke')).toBe(true);
  expect(mayAcknowledge('admin', 'alarm.duress')).toBe(true);
});

test('filters combine', () => {
  expect(matches(alert(), { severity: 'major', kind: 'gate' })).toBe(true);
  expect(matches(alert(), { severity: 'major', kind: 'lamp' })).toBe(false);
  expect(matches(alert(), { severity: 'minor', kind: null })).toBe(false);
});

describe('order', () => {
  const old = alert({ id: 'old', raised_at: '2026-11-21T08:00:00.000Z' });
  const young = alert({ id: 'young', raised_at: '2026-11-21T09:00:00.000Z' });
  const critical = alert({
    id: 'critical',
    severity: 'critical',
    raised_at: '2026-11-20T09:00:00.000Z',
  });
  const ids = (alerts: readonly { id: string }[]) => alerts.map(({ id }) => id);

  test('is severity, then the newest', () => {
    expect(ids(sorted([old, critical, young], null))).toEqual(['critical', 'young', 'old']);
  });

  test('by time runs either way', () => {
    const all = [young, old, critical];
    expect(ids(sorted(all, { by: 'raised_at', descending: false }))).toEqual([
      'critical',
      'old',
      'young',
    ]);
    expect(ids(sorted(all, { by: 'raised_at', descending: true }))).toEqual([
      'young',
      'old',
      'critical',
    ]);
  });

  test('by severity runs either way', () => {
    const all = [old, critical];
    expect(ids(sorted(all, { by: 'severity', descending: false }))[0]).toBe('critical');
    expect(ids(sorted(all, { by: 'severity', descending: true }))[0]).toBe('old');
  });
});

describe('arrangement', () => {
  test('held still, nothing appears, leaves or moves', () => {
    expect(arrange(['a', 'b', 'c'], ['new', 'c', 'a'], true)).toEqual({
      shown: ['a', 'b', 'c'],
      waiting: ['new'],
    });
  });

  test('free, it is as wanted', () => {
    expect(arrange(['a', 'b'], ['new', 'b'], false)).toEqual({ shown: ['new', 'b'], waiting: [] });
  });

  test('an empty list holds nothing back', () => {
    expect(arrange([], ['new'], true)).toEqual({ shown: ['new'], waiting: [] });
  });
});
