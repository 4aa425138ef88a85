// SPDX-License-Identifier: Apache-2.0
/** What is on screen lives in the address, so that it can be sent to a colleague. */
import { useLocation } from 'preact-iso';
import { query } from './api/client';
import { me } from './session';

export type Changes = Readonly<Record<string, string | null>>;

export interface Place {
  readonly path: string;
  readonly query: Readonly<Record<string, string>>;
  readonly area: string;
  /** The address of `path` in the same area. */
  to(path: string, parameters?: Changes): string;
  /** The present address with some parameters changed; null removes one. */
  with(changes: Changes): string;
  go(address: string, replace?: boolean): void;
}

export function usePlace(): Place {
  const location = useLocation();
  const home = me.value?.area ?? '';
  const area = location.query.area || home;
  const shared = { area: area === home ? null : area };
  return {
    path: location.path,
    query: location.query,
    area,
    to: (path, parameters = {}) => `${path}${query({ ...shared, ...parameters })}`,
    with: (changes) => `${location.path}${query({ ...location.query, ...changes })}`,
    go: (address, replace = false) => location.route(address, replace),
  };
}
