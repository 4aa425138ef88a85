// SPDX-License-Identifier: Apache-2.0
/** Why there is no number. Pure. */
import type { Indicator, IndicatorDefinition } from '../../api/types';

export type Missing =
  /** Nothing was heard of what counts, or nothing is stored. */
  | 'no_data'
  /** Nothing of the kind counted: none there, none in service, all in maintenance. */
  | 'nothing_counted'
  /** Residents are not known for every day. */
  | 'no_population'
  /** Nothing happened whose time could be taken. */
  | 'no_cases'
  | 'unfinished'
  /** Cases are there, but none of them is decided yet. */
  | 'unsettled';

export function missing(
  { shape, domain, parts_unit: unit }: Pick<IndicatorDefinition, 'shape' | 'domain' | 'parts_unit'>,
  item: Indicator | null | undefined,
): Missing | null {
  if (!item) return shape === 'times' ? 'no_cases' : 'no_data';
  const { value, total, subjects, excluded } = item;
  // A sum over nobody is no good news.
  const unheard = shape === 'sum' && value === 0 && subjects === 0;
  if (value !== null && !unheard) return null;
  switch (shape) {
    case 'rate':
      return 'no_population';
    case 'times':
      return total ? 'unfinished' : 'no_cases';
    case 'sum':
      return Object.values(excluded).some((amount) => amount > 0) ? 'nothing_counted' : 'no_data';
    case 'share':
      if (!total) return 'nothing_counted';
      return domain === 'security' || (domain === 'equipment' && unit === 'count')
        ? 'unsettled'
        : 'no_data';
  }
}
