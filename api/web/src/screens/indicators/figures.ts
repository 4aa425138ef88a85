// SPDX-License-Identifier: Apache-2.0
/** Numbers with the unit in which people read them. Pure: words come from the catalogue. */
import type { IndicatorUnit } from '../../api/types';

export type FigureUnit =
  | 'percent'
  | 'per_mille_year'
  | 'second'
  | 'minute'
  | 'hour'
  | 'kg'
  | 'kwh'
  | 'count';

export interface Figure {
  readonly text: string;
  readonly unit: FigureUnit;
}

export type Rounding = 'down' | 'near' | 'up';

interface Options {
  readonly rounding?: Rounding;
  /** What rounding must not cross: a number below its target never reads as reaching it. */
  readonly target?: number | null;
}

const MOST_DIGITS = 6;
// 0.29 * 100 is 28.999999999999996.
const NUDGE = 1e-9;

export function figure(
  value: number,
  unit: IndicatorUnit,
  language: string,
  { rounding = 'near', target = null }: Options = {},
): Figure {
  const say = (number: number, digits: number, limits: readonly number[] = []): string =>
    honest(number, digits, rounding, limits, language);
  switch (unit) {
    case 'fraction': {
      const limits = [0, 100, ...(target === null ? [] : [target * 100])];
      return { text: say(value * 100, 1, limits), unit: 'percent' };
    }
    case 'per_mille_year':
      return { text: say(value, 2, [0, ...(target === null ? [] : [target])]), unit };
    case 's':
      return duration(value, say);
    case 'kg':
      return { text: say(value, 1, [0]), unit: 'kg' };
    case 'kWh':
      return { text: say(value, 1, [0]), unit: 'kwh' };
    case 'count':
      return { text: say(value, 0, [0]), unit: 'count' };
  }
}

function duration(seconds: number, say: (number: number, digits: number) => string): Figure {
  if (seconds === 0) return { text: say(0, 0), unit: 'hour' };
  if (seconds < 60) return { text: say(seconds, 0), unit: 'second' };
  if (seconds < 3600) return { text: say(seconds / 60, 1), unit: 'minute' };
  return { text: say(seconds / 3600, seconds < 1000 * 3600 ? 1 : 0), unit: 'hour' };
}

/** A number that somebody set, or the end of an axis: 97 %, not 97.0 %. */
export function plainFigure(value: number, unit: IndicatorUnit, language: string): Figure {
  const shown = figure(value, unit, language).unit;
  const number = new Intl.NumberFormat(language, { maximumFractionDigits: 2 });
  return { text: number.format(value * SCALES[shown]), unit: shown };
}

const SCALES: Readonly<Record<FigureUnit, number>> = {
  percent: 100,
  per_mille_year: 1,
  second: 1,
  minute: 1 / 60,
  hour: 1 / 3600,
  kg: 1,
  kwh: 1,
  count: 1,
};

/** As many digits as keep a number on its side of every limit. */
function honest(
  value: number,
  digits: number,
  rounding: Rounding,
  limits: readonly number[],
  language: string,
): string {
  let places = digits;
  let shown = rounded(value, places, rounding);
  while (
    places < MOST_DIGITS &&
    limits.some((limit) => side(shown, limit) !== side(value, limit))
  ) {
    places += 1;
    shown = rounded(value, places, rounding);
  }
  return new Intl.NumberFormat(language, {
    minimumFractionDigits: places,
    maximumFractionDigits: places,
  }).format(shown);
}

function rounded(value: number, places: number, rounding: Rounding): number {
  const scale = 10 ** places;
  const scaled = value * scale;
  if (rounding === 'down') return Math.floor(scaled + NUDGE * scale) / scale;
  if (rounding === 'up') return Math.ceil(scaled - NUDGE * scale) / scale;
  return Math.round(scaled) / scale;
}

function side(value: number, limit: number): number {
  return Math.abs(value - limit) < NUDGE ? 0 : Math.sign(value - limit);
}
