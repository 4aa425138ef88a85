// SPDX-License-Identifier: Apache-2.0
import type { Alert, CaseRow, DeviceChange, Overview } from '../src/api/types';

export function alert(changes: Partial<Alert> = {}): Alert {
  return {
    id: 'a1',
    rule: 'gate.forced',
    severity: 'major',
    subject: 'c01-gate-02',
    kind: 'gate',
    device: 'c01-gate-02',
    gateway: 'gw-c01-a',
    area: 'c01-g01',
    community: 'c01',
    name: 'Gate 2',
    name_en: null,
    params: {},
    active: true,
    acknowledged: false,
    raised_at: '2026-11-21T10:00:00.000Z',
    received_at: '2026-11-21T10:00:00.200Z',
    cleared_at: null,
    acknowledged_at: null,
    acknowledged_by: null,
    note: null,
    late: false,
    version: 1,
    life_safety: false,
    standing: 1,
    repeats: 0,
    last_raised_at: changes.raised_at ?? '2026-11-21T10:00:00.000Z',
    latched: false,
    suppressed_by: [],
    shelved: null,
    out_of_service: null,
    quiet: false,
    stale: false,
    rule_name: null,
    ...changes,
  };
}

export function caseRow(changes: Partial<CaseRow> = {}): CaseRow {
  return {
    id: 'k1',
    nature: 'crime',
    rule: 'gate.forced',
    severity: 'major',
    severity_set: false,
    state: 'open',
    outcome: null,
    duplicate_of: null,
    merged_into: null,
    split_from: null,
    assignee: null,
    area: 'c01-g01',
    community: 'c01',
    alert_count: 1,
    note_count: 0,
    aborted: false,
    incident: null,
    first_at: '2026-11-21T10:00:00.000Z',
    last_at: '2026-11-21T10:00:00.000Z',
    opened_at: '2026-11-21T10:00:00.300Z',
    changed_at: '2026-11-21T10:00:00.300Z',
    version: 1,
    ...changes,
  };
}

export function change(changes: Partial<DeviceChange> = {}): DeviceChange {
  return {
    device: 'c01-lamp-017',
    kind: 'lamp',
    state: 'normal',
    at: '2026-11-21T10:00:00.000Z',
    received_at: '2026-11-21T10:00:00.200Z',
    values: { lit: true, power_w: 41.5 },
    area: 'c01-g01',
    name: 'Lamp 17',
    name_en: null,
    ...changes,
  };
}

export function overview(changes: Partial<Overview> = {}): Overview {
  return {
    area: {
      area: 'c01',
      parent: null,
      level: 'community',
      name: 'C1',
      name_en: null,
      time_zone: 'Asia/Shanghai',
      children: 0,
    },
    at: '2026-11-21T10:00:00.000Z',
    kinds: [],
    lighting: null,
    alerts: {
      unacknowledged: 7,
      active: 9,
      by_severity: { critical: 2, major: 8 },
      oldest_at: null,
      quiet: 0,
    },
    bins_full: 0,
    gates_held: 0,
    cities: [],
    gateways: [
      {
        gateway: 'gw-c01-a',
        community: 'c01',
        name: null,
        silent: false,
        last_seen_at: '2026-11-21T10:00:00.000Z',
        outbox_messages: 0,
        outbox_hours: 412.5,
        clock: 'synchronized',
        version: '0.1.0',
        life: 'in_service',
      },
    ],
    children: [],
    ...changes,
  };
}
