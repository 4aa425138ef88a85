// SPDX-License-Identifier: Apache-2.0
/** Calendar months (2026-11) of an area. Pure. */
import { addDays } from '../../format';

export interface Window {
  readonly from: string;
  /** Half open: the day after the last. */
  readonly to: string;
}

/** The month of `today` and those before it, latest first. */
export function lastMonths(today: string, count: number): readonly string[] {
  const date = new Date(`${today.slice(0, 7)}-01T00:00:00Z`);
  return Array.from({ length: count }, () => {
    const month = date.toISOString().slice(0, 7);
    date.setUTCMonth(date.getUTCMonth() - 1);
    return month;
  });
}

/** A month as far as it has come: residents of days to come would make its rates too small. */
export function windowOf(month: string, today: string): Window {
  const to = endOf(month);
  const tomorrow = addDays(today, 1);
  return { from: `${month}-01`, to: to < tomorrow ? to : tomorrow };
}

/** Every day of a month, those to come too. */
export function daysOf(month: string): readonly string[] {
  const end = endOf(month);
  const days: string[] = [];
  for (let day = `${month}-01`; day < end; day = addDays(day, 1)) days.push(day);
  return days;
}

export function daysIn({ from, to }: Window): number {
  return Math.round((Date.parse(`${to}T00:00:00Z`) - Date.parse(`${from}T00:00:00Z`)) / 86_400_000);
}

function endOf(month: string): string {
  const date = new Date(`${month}-01T00:00:00Z`);
  date.setUTCMonth(date.getUTCMonth() + 1);
  return date.toISOString().slice(0, 10);
}
