// SPDX-License-Identifier: Apache-2.0
/** How fresh the picture is. Pure. */

/** Two pings of 15 s: after that the picture may be old, and must say so. */
export const STALE_AFTER_MS = 30_000;

export interface Link {
  /** Browser time of the last event, ms; null before the first. */
  readonly heardAt: number | null;
  /** Server time that the last event carried, ms. */
  readonly dataAt: number | null;
  /** Browser time of the first attempt, ms: silence counts from here while nothing was heard. */
  readonly since: number;
}

export type Freshness = 'waiting' | 'live' | 'stale';

export function freshness(link: Link, now: number): Freshness {
  const silence = now - (link.heardAt ?? link.since);
  if (silence > STALE_AFTER_MS) return 'stale';
  return link.heardAt === null ? 'waiting' : 'live';
}

/** Server time now, as far as the browser can tell; the clocks of the two may differ. */
export function serverNow(link: Link, now: number): number {
  return link.heardAt === null || link.dataAt === null ? now : link.dataAt + (now - link.heardAt);
}
