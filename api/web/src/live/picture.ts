// SPDX-License-Identifier: Apache-2.0
/** The picture a screen shows of one area, and how each event of the stream changes it. Pure. */
import {
  type Alert,
  type AlertCounts,
  type Delta,
  type DeviceChange,
  type Gateway,
  type Overview,
  SEVERITIES,
  type Severity,
  type Snapshot,
} from '../api/types';

export type FeedEntry =
  | {
      readonly id: string;
      readonly at: string;
      readonly what: 'device';
      readonly change: DeviceChange;
    }
  | { readonly id: string; readonly at: string; readonly what: 'alert'; readonly alert: Alert };

export interface Picture {
  readonly overview: Overview;
  /** Alerts of the desk by id: open (active, latched or not acknowledged), and not quiet. */
  readonly alerts: ReadonlyMap<string, Alert>;
  /** False while the snapshot's limit hides older open alerts: counts then come from `overview`. */
  readonly complete: boolean;
  /** Newest first. */
  readonly feed: readonly FeedEntry[];
  /** What was last said of each device seen, so that a repeated reading is no news. */
  readonly told: ReadonlyMap<string, string>;
}

export const FEED_MAX = 50;
/** A snapshot carries at most so many alerts. */
export const SNAPSHOT_ALERTS_MAX = 200;

export const onDesk = (alert: Alert): boolean =>
  (alert.active || alert.latched || !alert.acknowledged) && !alert.quiet;

export function fromOverview(overview: Overview): Picture {
  return { overview, alerts: new Map(), complete: false, feed: [], told: new Map() };
}

export function fromSnapshot(snapshot: Snapshot): Picture {
  const items = snapshot.feed ?? [];
  const told = new Map<string, string>();
  // Newest first, so the first mention of a device is its latest.
  for (const item of items) {
    if (!isAlert(item) && !told.has(item.device)) told.set(item.device, gist(item));
  }
  return {
    told,
    overview: snapshot.overview,
    alerts: new Map(snapshot.alerts.filter(onDesk).map((alert) => [alert.id, alert])),
    complete: snapshot.alerts.length < SNAPSHOT_ALERTS_MAX,
    feed: newestFirst(items.map(entryOf)),
  };
}

/** All open alerts, fetched page by page; what the stream said meanwhile wins by version. */
export function withAllAlerts(picture: Picture, fetched: readonly Alert[]): Picture {
  return { ...picture, alerts: mergeAlerts(picture.alerts, fetched), complete: true };
}

export function withAlerts(picture: Picture, changed: readonly Alert[]): Picture {
  return { ...picture, alerts: mergeAlerts(picture.alerts, changed) };
}

export function withOverview(picture: Picture, overview: Overview): Picture {
  return { ...picture, overview };
}

export function withDelta(picture: Picture, delta: Delta): Picture {
  const changed = delta.alerts ?? [];
  const told = new Map(picture.told);
  const news = (delta.devices ?? []).filter((device) => {
    const before = told.get(device.device);
    const present = gist(device);
    told.set(device.device, present);
    // The first word of a device in good order may be a heartbeat: nobody knows what was before.
    return before === undefined ? device.state !== 'normal' : before !== present;
  });
  // What is quiet leaves the desk, and is no news: a gateway that falls silent mutes hundreds.
  const arrived = [...news, ...changed.filter((alert) => !alert.quiet)].map(entryOf);
  return {
    ...picture,
    told,
    overview: withGateways(picture.overview, delta.gateways ?? []),
    alerts: changed.length ? mergeAlerts(picture.alerts, changed) : picture.alerts,
    feed: arrived.length ? newestFirst([...arrived, ...picture.feed]) : picture.feed,
  };
}

function mergeAlerts(
  known: ReadonlyMap<string, Alert>,
  changed: readonly Alert[],
): ReadonlyMap<string, Alert> {
  const merged = new Map(known);
  for (const alert of changed) {
    const before = merged.get(alert.id);
    if (before && before.version > alert.version) continue;
    if (onDesk(alert)) merged.set(alert.id, alert);
    else merged.delete(alert.id);
  }
  return merged;
}

function withGateways(
  overview: Overview,
  changed: readonly (Partial<Gateway> & { readonly gateway: string })[],
): Overview {
  if (!changed.length) return overview;
  const byId = new Map(changed.map((gateway) => [gateway.gateway, gateway]));
  return {
    ...overview,
    gateways: overview.gateways.map((gateway) => ({ ...gateway, ...byId.get(gateway.gateway) })),
  };
}

function isAlert(item: DeviceChange | Alert): item is Alert {
  return 'rule' in item;
}

/** A heartbeat repeats a reading and power wobbles: neither is news. A fill level is, by tens. */
function gist(change: DeviceChange): string {
  const words = Object.entries(change.values).map(([name, value]) => {
    if (typeof value !== 'number') return `${name}=${String(value)}`;
    return name.endsWith('_pct') ? `${name}=${Math.round(value / 10)}` : '';
  });
  return [change.state, ...words].join(' ');
}

/** Alerts enter at their latest step, so raising, clearing and acknowledging are three entries. */
function entryOf(item: DeviceChange | Alert): FeedEntry {
  if (isAlert(item)) {
    const at = latest(item.last_raised_at, item.cleared_at, item.acknowledged_at);
    return { id: `${item.id}:${item.version}`, at, what: 'alert', alert: item };
  }
  const at = item.at ?? item.received_at ?? '';
  return { id: `${item.device}:${at}:${item.state}`, at, what: 'device', change: item };
}

function latest(...instants: readonly (string | null)[]): string {
  return instants.reduce<string>((best, at) => (at !== null && at > best ? at : best), '');
}

function newestFirst(entries: readonly FeedEntry[]): readonly FeedEntry[] {
  const unique = new Map<string, FeedEntry>();
  for (const entry of entries) if (!unique.has(entry.id)) unique.set(entry.id, entry);
  return [...unique.values()]
    .sort((a, b) => (a.at < b.at ? 1 : a.at > b.at ? -1 : 0))
    .slice(0, FEED_MAX);
}

export interface OpenAlerts {
  readonly total: number;
  readonly unacknowledged: number;
  readonly bySeverity: Readonly<Record<Severity, number>>;
  readonly oldestAt: string | null;
}

/** Counted from the alerts themselves where all are here, so tile and list never disagree. */
export function openAlerts(picture: Picture): OpenAlerts {
  const bySeverity: Record<Severity, number> = { critical: 0, major: 0, minor: 0, info: 0 };
  if (!picture.complete) return fromCounts(picture.overview.alerts, bySeverity);
  let unacknowledged = 0;
  let oldestAt: string | null = null;
  for (const alert of picture.alerts.values()) {
    bySeverity[alert.severity] += 1;
    if (!alert.acknowledged) unacknowledged += 1;
    if (oldestAt === null || alert.raised_at < oldestAt) oldestAt = alert.raised_at;
  }
  return { total: picture.alerts.size, unacknowledged, bySeverity, oldestAt };
}

function fromCounts(counts: AlertCounts, bySeverity: Record<Severity, number>): OpenAlerts {
  let total = 0;
  for (const severity of SEVERITIES) {
    bySeverity[severity] = counts.by_severity[severity] ?? 0;
    total += bySeverity[severity];
  }
  return { total, unacknowledged: counts.unacknowledged, bySeverity, oldestAt: counts.oldest_at };
}
