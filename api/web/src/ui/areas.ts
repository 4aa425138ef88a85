// SPDX-License-Identifier: Apache-2.0
/** The area tree, as far as a person may see it. Pure. */
import type { Area } from '../api/types';

type Areas = ReadonlyMap<string, Area>;

/** From the top of what the person sees down to the parent of `id`. */
export function ancestors(areas: Areas, id: string): readonly Area[] {
  const path: Area[] = [];
  let parent = areas.get(id)?.parent ?? null;
  while (parent !== null) {
    const area = areas.get(parent);
    if (!area || path.includes(area)) break;
    path.unshift(area);
    parent = area.parent;
  }
  return path;
}

export interface Listed {
  readonly area: Area;
  readonly depth: number;
}

/**
 * The tree in reading order. Without a search, grid cells are listed only around `here`: a city
 * has thousands of them. With one, whatever matches by name or id.
 */
export function listed(
  areas: Areas,
  here: string,
  search: string,
  name: (area: Area) => string,
): readonly Listed[] {
  const children = new Map<string | null, Area[]>();
  for (const area of areas.values()) {
    const parent = area.parent !== null && areas.has(area.parent) ? area.parent : null;
    children.set(parent, [...(children.get(parent) ?? []), area]);
  }
  const around = new Set([here, areas.get(here)?.parent]);
  const wanted = search.trim().toLowerCase();
  const shows = (area: Area): boolean =>
    wanted === ''
      ? area.level !== 'cell' || around.has(area.parent)
      : name(area).toLowerCase().includes(wanted) || area.area.includes(wanted);
  const result: Listed[] = [];
  const visit = (parent: string | null, depth: number): void => {
    for (const area of children.get(parent) ?? []) {
      if (shows(area)) result.push({ area, depth });
      visit(area.area, depth + 1);
    }
  };
  visit(null, 0);
  return result;
}
