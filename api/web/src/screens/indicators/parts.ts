// SPDX-License-Identifier: Apache-2.0
/** What a number is made of, by the shape of its indicator. Pure. */
import type {
  Indicator,
  IndicatorDefinition,
  IndicatorRevision,
  IndicatorUnit,
} from '../../api/types';

export type PartName =
  | 'good'
  | 'known'
  | 'unknown'
  | 'total'
  | 'sum'
  | 'cases'
  | 'person_days'
  | 'residents'
  | 'finished'
  | 'unfinished'
  | 'devices';

export interface Part {
  readonly name: PartName;
  readonly amount: number;
  readonly unit: IndicatorUnit;
}

/** `days` is the length of the window: the average population is taken over it. */
export function partsOf(
  { shape, parts_unit: unit, domain }: IndicatorDefinition,
  item: Indicator,
  days: number,
): readonly Part[] {
  const { numerator, denominator, total, coverage, subjects } = item;
  const parts: Part[] = [];
  const add = (name: PartName, amount: number | null, of: IndicatorUnit = unit): void => {
    if (amount !== null) parts.push({ name, amount, unit: of });
  };
  switch (shape) {
    case 'share':
      add('good', numerator);
      add('known', denominator);
      if (total !== null && denominator !== null) add('unknown', total - denominator);
      add('total', total);
      break;
    case 'sum':
      add('sum', numerator);
      break;
    case 'rate':
      add('cases', numerator, 'count');
      if (denominator) add('person_days', denominator, 'count');
      if (denominator && coverage === 1) add('residents', Math.round(denominator / days), 'count');
      break;
    case 'times':
      add('finished', numerator, 'count');
      if (total !== null && numerator !== null) add('unfinished', total - numerator, 'count');
      break;
  }
  // Where cases speak their number stands above already.
  if (domain !== 'security') add('devices', subjects, 'count');
  return parts;
}

/** A rate of one day, scaled to a year, says nothing: its days show the cases themselves. */
export function ofDays(
  definition: IndicatorDefinition,
  items: readonly Indicator[],
): { readonly definition: IndicatorDefinition; readonly items: readonly Indicator[] } {
  const all = items.filter(({ kind }) => kind === '');
  if (definition.shape !== 'rate') return { definition, items: all };
  return {
    definition: { ...definition, shape: 'sum', unit: 'count', target: null },
    items: all.map((item) => ({
      ...item,
      value: item.numerator,
      lower: null,
      upper: null,
      coverage: null,
      target: null,
      verdict: null,
    })),
  };
}

export interface Before {
  readonly value: number | null;
  readonly unit: IndicatorUnit;
  readonly coverage: number | null;
}

/** What a restated number was: the share and its coverage where it was one, else the amount. */
export function before(
  { shape, parts_unit: unit }: IndicatorDefinition,
  { numerator, denominator, total }: IndicatorRevision,
): Before {
  if (shape !== 'share') return { value: numerator, unit, coverage: null };
  return {
    value: denominator > 0 ? numerator / denominator : null,
    unit: 'fraction',
    coverage: total > 0 ? denominator / total : null,
  };
}
