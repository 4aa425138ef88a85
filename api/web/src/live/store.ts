// SPDX-License-Identifier: Apache-2.0
/** The live picture of the area on screen, as signals. One stream at a time. */
import { batch, computed, signal } from '@preact/signals';
import { ApiError, query, request } from '../api/client';
import type { Alert, Delta, Overview, Page, Snapshot } from '../api/types';
import { checkSession } from '../session';
import { announceAlerts } from '../ui/announce';
import { freshness, type Link, serverNow } from './link';
import {
  fromOverview,
  fromSnapshot,
  type Picture,
  withAlerts,
  withAllAlerts,
  withDelta,
  withOverview,
} from './picture';
import { openStream, type Stream } from './stream';

export const picture = signal<Picture | null>(null);
/** Why there is no picture: the area's overview could not be had. */
export const failure = signal<ApiError | null>(null);
export const link = signal<Link>({ heardAt: null, dataAt: null, since: Date.now() });
/** Browser time, once a second; whoever shows an age reads this. */
export const tick = signal(Date.now());
export const fresh = computed(() => freshness(link.value, tick.value));
export const now = computed(() => serverNow(link.value, tick.value));

const OPEN_PAGE = 500;
const OPEN_PAGES_MAX = 10;

let stream: Stream | null = null;
let area: string | null = null;
let generation = 0;

setInterval(() => {
  tick.value = Date.now();
}, 1000);

/** Shows `next`; the picture of the former area goes at once, so the two are never mixed. */
export function watch(next: string): void {
  if (next === area) return;
  leave();
  area = next;
  link.value = { heardAt: null, dataAt: null, since: Date.now() };
  start(next);
}

export function leave(): void {
  generation += 1;
  area = null;
  stream?.close();
  stream = null;
  picture.value = null;
  failure.value = null;
}

export function retry(): void {
  const again = area;
  if (again === null) return;
  leave();
  watch(again);
}

/** An alert that this person just changed or looked up. */
export function learn(alert: Alert): void {
  if (picture.value) picture.value = withAlerts(picture.value, [alert]);
}

function start(id: string): void {
  const mine = generation;
  const current = (): boolean => mine === generation;
  // The stream cannot say why it was refused; the overview can, and is often here first.
  request<Overview>('GET', `/areas/${encodeURIComponent(id)}/overview`).then(
    (overview) => {
      if (current() && picture.value === null) picture.value = fromOverview(overview);
    },
    (error: unknown) => {
      if (!(error instanceof ApiError)) throw error;
      if (current() && picture.value === null) failure.value = error;
    },
  );
  stream = openStream(`/api/v1/stream${query({ area: id })}`, {
    event: (name, data) => {
      if (current()) receive(name, data, current);
    },
    broken: (refused) => {
      if (refused) void checkSession();
    },
  });
}

function receive(name: string, data: unknown, current: () => boolean): void {
  batch(() => {
    const heardAt = Date.now();
    const at = (data as { at?: string }).at;
    link.value = {
      ...link.value,
      heardAt,
      dataAt: at === undefined ? link.value.dataAt : Date.parse(at),
    };
    tick.value = heardAt;
    switch (name) {
      case 'snapshot': {
        const snapshot = data as Snapshot;
        picture.value = fromSnapshot(snapshot);
        failure.value = null;
        if (!picture.value.complete) void fetchAllAlerts(snapshot.overview.area.area, current);
        break;
      }
      case 'delta':
        if (picture.value) {
          const delta = data as Delta;
          announceAlerts((delta.alerts ?? []).filter((alert) => !knows(alert)));
          picture.value = withDelta(picture.value, delta);
        }
        break;
      case 'overview':
        if (picture.value) picture.value = withOverview(picture.value, data as Overview);
        break;
      default: // a ping: it only proves that the connection lives
    }
  });
}

function knows(alert: Alert): boolean {
  return (
    alert.quiet ||
    !alert.active ||
    alert.acknowledged ||
    (picture.value?.alerts.has(alert.id) ?? false)
  );
}

/** Alerts of the desk are never cut off by a snapshot's limit. */
async function fetchAllAlerts(id: string, current: () => boolean): Promise<void> {
  const found: Alert[] = [];
  let cursor: string | null = null;
  for (let page = 0; page < OPEN_PAGES_MAX; page += 1) {
    let answer: Page<Alert>;
    try {
      answer = await request<Page<Alert>>(
        'GET',
        `/alerts${query({ area: id, status: 'desk', limit: OPEN_PAGE, cursor })}`,
      );
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      return; // the picture stays marked incomplete; the next snapshot tries again
    }
    if (!current() || !picture.value) return;
    found.push(...answer.items);
    cursor = answer.next_cursor;
    if (cursor === null) {
      picture.value = withAllAlerts(picture.value, found);
      return;
    }
  }
  if (picture.value) picture.value = withAlerts(picture.value, found);
}
