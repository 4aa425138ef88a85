// SPDX-License-Identifier: Apache-2.0
import { describe, expect, test } from 'vitest';
import type { Delta, Snapshot } from '../src/api/types';
import {
  FEED_MAX,
  fromSnapshot,
  openAlerts,
  SNAPSHOT_ALERTS_MAX,
  withAllAlerts,
  withDelta,
} from '../src/live/picture';
import { alert, caseRow, change, overview } from './fixtures';

const AT = '2026-11-21T10:00:00.000Z';

function snapshot(changes: Partial<Snapshot> = {}): Snapshot {
  return { cursor: 'x-1', at: AT, overview: overview(), alerts: [], feed: [], ...changes };
}

function delta(changes: Partial<Delta>): Delta {
  return { cursor: 'x-2', at: AT, ...changes };
}

describe('alerts', () => {
  test('one that is cleared and acknowledged leaves', () => {
    const before = fromSnapshot(snapshot({ alerts: [alert()] }));
    const acknowledged = withDelta(
      before,
      delta({ alerts: [alert({ acknowledged: true, version: 2 })] }),
    );
    expect(acknowledged.alerts.get('a1')?.acknowledged).toBe(true);
    const gone = withDelta(
      acknowledged,
      delta({ alerts: [alert({ acknowledged: true, active: false, version: 3 })] }),
    );
    expect(gone.alerts.size).toBe(0);
  });

  test('one that is put aside leaves, without being news, and comes back', () => {
    const shelved = { until: '2026-11-21T11:00:00.000Z', by: 'li', reason: 'x', once: false };
    const before = fromSnapshot(snapshot({ alerts: [alert()] }));
    const aside = withDelta(
      before,
      delta({ alerts: [alert({ shelved, quiet: true, version: 2 })] }),
    );
    expect(aside.alerts.size).toBe(0);
    expect(aside.feed).toHaveLength(0);
    const back = withDelta(aside, delta({ alerts: [alert({ version: 3 })] }));
    expect(back.alerts.get('a1')?.version).toBe(3);
    // Danger to life is marked so, and stays in sight.
    const danger = alert({ id: 'a2', out_of_service: shelved, life_safety: true });
    expect(withDelta(aside, delta({ alerts: [danger] })).alerts.has('a2')).toBe(true);
  });

  test('one that is latched stays until it is reset', () => {
    const latched = alert({ active: false, acknowledged: true, latched: true });
    const before = fromSnapshot(snapshot({ alerts: [latched] }));
    expect(before.alerts.has('a1')).toBe(true);
    const reset = delta({ alerts: [{ ...latched, latched: false, version: 2 }] });
    expect(withDelta(before, reset).alerts.size).toBe(0);
  });

  test('an older version never undoes a newer one', () => {
    const newer = fromSnapshot(snapshot({ alerts: [alert({ acknowledged: true, version: 2 })] }));
    expect(
      withDelta(newer, delta({ alerts: [alert({ version: 1 })] })).alerts.get('a1')?.version,
    ).toBe(2);
    expect(withAllAlerts(newer, [alert({ version: 1 })]).alerts.get('a1')?.version).toBe(2);
  });

  test('are counted one by one where all are here, and by the server where not', () => {
    const all = fromSnapshot(
      snapshot({
        alerts: [
          alert({ severity: 'critical' }),
          alert({ id: 'a2', acknowledged: true, raised_at: '2026-11-21T08:00:00.000Z' }),
        ],
      }),
    );
    expect(openAlerts(all)).toEqual({
      total: 2,
      unacknowledged: 1,
      bySeverity: { critical: 1, major: 1, minor: 0, info: 0 },
      oldestAt: '2026-11-21T08:00:00.000Z',
    });
    const many = Array.from({ length: SNAPSHOT_ALERTS_MAX }, (_, i) => alert({ id: `a${i}` }));
    const cut = fromSnapshot(snapshot({ alerts: many }));
    expect(cut.complete).toBe(false);
    expect(openAlerts(cut)).toMatchObject({ total: 10, unacknowledged: 7 });
    expect(openAlerts(withAllAlerts(cut, [])).total).toBe(SNAPSHOT_ALERTS_MAX);
  });
});

describe('feed', () => {
  test('is newest first, without doubles, and bounded', () => {
    const items = Array.from({ length: 60 }, (_, i) =>
      change({ device: `lamp-${i}`, at: `2026-11-21T10:00:${String(i).padStart(2, '0')}.000Z` }),
    ).reverse();
    const before = fromSnapshot(snapshot({ feed: items }));
    expect(before.feed).toHaveLength(FEED_MAX);
    const after = withDelta(
      before,
      delta({
        devices: [change({ device: 'lamp-1', at: '2026-11-21T10:01:00.000Z', state: 'fault' })],
      }),
    );
    expect(after.feed[0]).toMatchObject({ what: 'device', change: { state: 'fault' } });
    expect(new Set(after.feed.map((entry) => entry.id)).size).toBe(FEED_MAX);
  });

  test('leaves out a heartbeat that repeats what is known', () => {
    const before = fromSnapshot(snapshot({ feed: [change()] }));
    const later = '2026-11-21T10:10:00.000Z';
    const heartbeat = change({ at: later, values: { lit: true, power_w: 41.9 } });
    expect(withDelta(before, delta({ devices: [heartbeat] })).feed).toHaveLength(1);
    const dark = change({ at: later, values: { lit: false, power_w: 0 } });
    expect(withDelta(before, delta({ devices: [dark] })).feed).toHaveLength(2);
  });

  test('leaves out the first word of a device in good order, never that of one in trouble', () => {
    const before = fromSnapshot(snapshot());
    expect(withDelta(before, delta({ devices: [change()] })).feed).toHaveLength(0);
    expect(withDelta(before, delta({ devices: [change({ state: 'fault' })] })).feed).toHaveLength(
      1,
    );
  });

  test('tells raising and acknowledging of one alert as two entries', () => {
    const raised = withDelta(fromSnapshot(snapshot()), delta({ alerts: [alert()] }));
    const both = withDelta(
      raised,
      delta({
        alerts: [
          alert({ acknowledged: true, acknowledged_at: '2026-11-21T10:05:00.000Z', version: 2 }),
        ],
      }),
    );
    expect(both.feed.map((entry) => entry.at)).toEqual(['2026-11-21T10:05:00.000Z', AT]);
  });
});

test('a gateway falls silent without waiting for the next overview', () => {
  const before = fromSnapshot(snapshot());
  const after = withDelta(before, delta({ gateways: [{ gateway: 'gw-c01-a', silent: true }] }));
  expect(after.overview.gateways[0]).toMatchObject({ silent: true, version: '0.1.0' });
});

test('cases are told, and change nothing of what is shown', () => {
  const told = fromSnapshot(snapshot({ alerts: [alert()], cases: [caseRow()] }));
  expect(told).toEqual(fromSnapshot(snapshot({ alerts: [alert()] })));
  const joined = delta({ cases: [caseRow({ version: 2 })], cases_gone: ['k2'] });
  expect(withDelta(told, joined)).toEqual(told);
});
