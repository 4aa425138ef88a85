// SPDX-License-Identifier: Apache-2.0
/** Geometry of bars and charts: where a number lies on its axis. Pure. */
import type { Indicator, IndicatorUnit } from '../../api/types';

export interface Axis {
  readonly from: number;
  readonly to: number;
}

export interface Bar {
  readonly axis: Axis;
  /** Shares of the width, 0 to 1. */
  readonly lower: number;
  readonly upper: number;
  readonly value: number | null;
  readonly target: number | null;
  /** The upper bound may grow without end. */
  readonly endless: boolean;
}

/**
 * A share ends at 1 and begins at a round tenth below whatever is smallest, target included, so
 * that 97 % does not sit at the very edge. Everything else begins at 0.
 */
export function axisOf(unit: IndicatorUnit, numbers: readonly (number | null)[]): Axis {
  const known = numbers.filter((one) => one !== null);
  if (unit === 'fraction') {
    const smallest = Math.min(1, ...known);
    return { from: Math.max(0, Math.floor((smallest - 0.02) * 10 + 1e-9) / 10), to: 1 };
  }
  const largest = Math.max(0, ...known);
  // 16.7 minutes are a round number of seconds, but of nothing else.
  const scale = unit !== 's' || largest < 60 ? 1 : largest < 3600 ? 60 : 3600;
  return { from: 0, to: roundUp(largest / scale) * scale };
}

/** The next of 1, 2, 2.5, 5 times a power of ten. */
export function roundUp(value: number): number {
  if (value <= 0) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  const step = [1, 2, 2.5, 5, 10].find((one) => value <= one * power * (1 + 1e-9)) ?? 10;
  return step * power;
}

export function placeOn(axis: Axis, value: number): number {
  return Math.min(1, Math.max(0, (value - axis.from) / (axis.to - axis.from)));
}

/** Where the marks of one number's bar stand; null where it has no bounds to draw. */
export function barOf(
  item: Pick<Indicator, 'lower' | 'upper' | 'value' | 'p90' | 'target'>,
  unit: IndicatorUnit,
): Bar | null {
  const { lower, upper, value, target } = item;
  if (lower === null) return null;
  const axis = axisOf(unit, [lower, upper, value, target, upper === null ? item.p90 : null]);
  const place = (one: number | null): number | null => (one === null ? null : placeOn(axis, one));
  return {
    axis,
    lower: placeOn(axis, lower),
    upper: place(upper) ?? 1,
    value: place(value),
    target: place(target),
    endless: upper === null,
  };
}

export interface Slot {
  readonly day: string;
  readonly item: Indicator | null;
}

/** One slot for each day, those without a number too: a gap is shown as a gap. */
export function slotsOf(days: readonly string[], items: readonly Indicator[]): readonly Slot[] {
  const byDay = new Map(items.map((item) => [item.label, item]));
  return days.map((day) => ({ day, item: byDay.get(day) ?? null }));
}
