// SPDX-License-Identifier: Apache-2.0
/** Who is at the screen. `undefined` while it is not known yet, `null` when nobody is. */
import { signal } from '@preact/signals';
import { ApiError, onUnauthorized, query, request } from './api/client';
import type { Area, Me, Page } from './api/types';
import { setLanguage } from './i18n';
import { asLanguage } from './locale/pick';

export const me = signal<Me | null | undefined>(undefined);
/** Set when a session ended by itself, so that the log-in page can say so. */
export const expired = signal(false);
/** Why it cannot be told who is here: the api does not answer. */
export const sessionFailure = signal<ApiError | null>(null);
/** The areas this person may see. */
export const areas = signal<ReadonlyMap<string, Area>>(new Map());

onUnauthorized(() => {
  if (me.value) expired.value = true;
  me.value = null;
});

export async function checkSession(): Promise<void> {
  try {
    await enter(await request<Me>('GET', '/session'));
    sessionFailure.value = null;
  } catch (error) {
    if (!(error instanceof ApiError)) throw error;
    if (error.status !== 401 && !me.value) sessionFailure.value = error;
  }
}

/** Raises ApiError: 401 wrong name or password, 429 too many attempts. */
export async function logIn(username: string, password: string): Promise<void> {
  const person = await request<Me>('POST', '/session', { body: { username, password } });
  // The profile speaks when a person comes in; from then on the switch in the page does.
  const profile = asLanguage(person.language);
  if (profile) await setLanguage(profile, { remember: true });
  expired.value = false;
  await enter(person);
}

export async function logOut(): Promise<void> {
  try {
    await request<void>('DELETE', '/session');
  } catch (error) {
    if (!(error instanceof ApiError)) throw error;
    if (error.status !== 401) throw error;
  }
  expired.value = false;
  me.value = null;
}

async function enter(person: Me): Promise<void> {
  if (me.value && me.value.username === person.username && areas.value.size > 0) {
    me.value = person;
    return;
  }
  areas.value = await fetchAreas();
  me.value = person;
}

async function fetchAreas(): Promise<ReadonlyMap<string, Area>> {
  const found = new Map<string, Area>();
  let cursor: string | null = null;
  do {
    const page: Page<Area> = await request('GET', `/areas${query({ limit: 1000, cursor })}`);
    for (const area of page.items) found.set(area.area, area);
    cursor = page.next_cursor;
  } while (cursor !== null);
  return found;
}
