// SPDX-License-Identifier: Apache-2.0
/** Geometry of the uptime bar. Pure. */

export interface Scale {
  /** Fraction at the left end; the right end is 1. */
  readonly from: number;
  /** Distances from the left end as shares of the width, 0 to 1. */
  readonly lower: number;
  readonly upper: number;
  readonly target: number;
}

/**
 * The bar shows the part of 0 to 1 that matters: from a round tenth below whatever is smallest,
 * target included, so that a target of 97 % does not sit at the very edge.
 */
export function uptimeScale(lower: number, upper: number, target: number): Scale {
  const smallest = Math.min(lower, target);
  const from = Math.max(0, Math.floor((smallest - 0.02) * 10 + 1e-9) / 10);
  const place = (fraction: number): number => (fraction - from) / (1 - from);
  return { from, lower: place(lower), upper: place(upper), target: place(target) };
}
