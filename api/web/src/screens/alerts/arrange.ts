// SPDX-License-Identifier: Apache-2.0
/** Which alerts a tab shows, in which order, and when that may change under a person's eyes. Pure. */
import { type Alert, SEVERITIES } from '../../api/types';
import type { Sort } from '../../ui/table';

export const TABS = ['unacknowledged', 'acknowledged', 'recovered', 'history'] as const;
export type Tab = (typeof TABS)[number];
export type OpenTab = Exclude<Tab, 'history'>;

export function asTab(text: string | undefined): Tab {
  return TABS.find((tab) => tab === text) ?? 'unacknowledged';
}

/** Every open alert stands in exactly one tab; `history` is where it stands once it is closed. */
export function tabOf(alert: Pick<Alert, 'active' | 'acknowledged' | 'latched'>): Tab {
  if (alert.active) return alert.acknowledged ? 'acknowledged' : 'unacknowledged';
  return alert.acknowledged && !alert.latched ? 'history' : 'recovered';
}

export function counts(alerts: Iterable<Alert>): Readonly<Record<OpenTab, number>> {
  const result = { unacknowledged: 0, acknowledged: 0, recovered: 0 };
  for (const alert of alerts) {
    const tab = tabOf(alert);
    if (tab !== 'history') result[tab] += 1;
  }
  return result;
}

export interface Filter {
  readonly severity: string | null;
  readonly kind: string | null;
}

export function matches(alert: Alert, filter: Filter): boolean {
  return (
    (filter.severity === null || alert.severity === filter.severity) &&
    (filter.kind === null || alert.kind === filter.kind)
  );
}

const rank = (alert: Alert): number => SEVERITIES.indexOf(alert.severity);
const byTime = (a: Alert, b: Alert): number =>
  a.raised_at < b.raised_at ? -1 : a.raised_at > b.raised_at ? 1 : a.id < b.id ? -1 : 1;

/** Without `sort`: most severe first, then newest first. */
export function sorted(alerts: Iterable<Alert>, sort: Sort | null): readonly Alert[] {
  const direction = sort?.descending === false ? 1 : -1;
  const compare =
    sort?.by === 'raised_at'
      ? (a: Alert, b: Alert) => direction * byTime(a, b)
      : (a: Alert, b: Alert) =>
          (sort?.descending ? rank(b) - rank(a) : rank(a) - rank(b)) || -byTime(a, b);
  return [...alerts].sort(compare);
}

export interface Arrangement {
  readonly shown: readonly string[];
  /** Alerts that belong here and wait until the person lets the list move. */
  readonly waiting: readonly string[];
}

/**
 * While `held`, no row appears, leaves or moves: a row under the pointer stays under the pointer.
 * What is no longer wanted stays visible as it is; what is new waits.
 */
export function arrange(
  before: readonly string[],
  wanted: readonly string[],
  held: boolean,
): Arrangement {
  if (!held || before.length === 0) return { shown: wanted, waiting: [] };
  const there = new Set(before);
  return { shown: before, waiting: wanted.filter((id) => !there.has(id)) };
}
