// SPDX-License-Identifier: Apache-2.0
/** Numbers, times and spans as people read them. Pure: language and zone are arguments. */

const formatters = new Map<string, Intl.DateTimeFormat>();

function formatter(
  language: string,
  zone: string,
  options: Intl.DateTimeFormatOptions,
): Intl.DateTimeFormat {
  const key = `${language}|${zone}|${JSON.stringify(options)}`;
  let found = formatters.get(key);
  if (!found) {
    found = new Intl.DateTimeFormat(language, { ...options, timeZone: zone, hourCycle: 'h23' });
    formatters.set(key, found);
  }
  return found;
}

export interface Clock {
  readonly language: string;
  /** IANA name: times are shown in the community's zone, wherever the browser is. */
  readonly zone: string;
}

const HM = { hour: '2-digit', minute: '2-digit' } as const;

export function formatTime(at: string | number, { language, zone }: Clock): string {
  return formatter(language, zone, HM).format(new Date(at));
}

export function formatSeconds(at: string | number, { language, zone }: Clock): string {
  return formatter(language, zone, { ...HM, second: '2-digit' }).format(new Date(at));
}

/** Year only where it is not the present one. */
export function formatDateTime(at: string | number, now: number, clock: Clock): string {
  const date = new Date(at);
  if (dayOf(date, clock.zone) === dayOf(new Date(now), clock.zone)) return formatTime(at, clock);
  const sameYear =
    dayOf(date, clock.zone).slice(0, 4) === dayOf(new Date(now), clock.zone).slice(0, 4);
  return formatter(clock.language, clock.zone, {
    ...(sameYear ? {} : { year: 'numeric' }),
    month: 'short',
    day: 'numeric',
    ...HM,
  }).format(date);
}

/** With everything, for places where a person compares records. */
export function formatExact(at: string | number, { language, zone }: Clock): string {
  const instant = new Date(at);
  const text = formatter(language, zone, {
    year: 'numeric',
    month: '2-digit',
    day: '2-digit',
    ...HM,
    second: '2-digit',
  }).format(instant);
  // By hand: in zh-CN the zone would stand between the date and the time.
  const name = formatter(language, zone, { timeZoneName: 'short' })
    .formatToParts(instant)
    .find((part) => part.type === 'timeZoneName');
  return name ? `${text} ${name.value}` : text;
}

/** `day` is a calendar date (2026-11-20), which has no zone. */
export function formatDay(day: string, language: string): string {
  return formatter(language, 'UTC', { month: 'short', day: 'numeric', weekday: 'short' }).format(
    new Date(`${day}T00:00:00Z`),
  );
}

/** `month` is a calendar month (2026-11). */
export function formatMonth(month: string, language: string): string {
  return formatter(language, 'UTC', { year: 'numeric', month: 'long' }).format(
    new Date(`${month}-01T00:00:00Z`),
  );
}

/** The calendar date of an instant in a zone, YYYY-MM-DD. */
export function dayOf(at: Date, zone: string): string {
  return formatter('en-CA', zone, { year: 'numeric', month: '2-digit', day: '2-digit' }).format(at);
}

export function addDays(day: string, days: number): string {
  const date = new Date(`${day}T00:00:00Z`);
  date.setUTCDate(date.getUTCDate() + days);
  return date.toISOString().slice(0, 10);
}

/** The instant at which a calendar date begins in a zone (the later one where clocks go back). */
export function startOfDay(day: string, zone: string): Date {
  const wanted = Date.parse(`${day}T00:00:00Z`);
  let guess = wanted;
  // The offset at the guess may differ from that at the result next to a change of clocks.
  for (let i = 0; i < 3; i += 1) guess = wanted - offsetMs(guess, zone);
  return new Date(guess);
}

function offsetMs(at: number, zone: string): number {
  const parts = formatter('en-CA', zone, {
    year: 'numeric',
    month: '2-digit',
    day: '2-digit',
    hour: '2-digit',
    minute: '2-digit',
    second: '2-digit',
  }).formatToParts(new Date(at));
  const part = (type: string): string => parts.find((p) => p.type === type)?.value ?? '00';
  const local = `${part('year')}-${part('month')}-${part('day')}T${part('hour')}:${part('minute')}:${part('second')}Z`;
  return Date.parse(local) - Math.floor(at / 1000) * 1000;
}

export function formatNumber(value: number, language: string, digits = 0): string {
  return new Intl.NumberFormat(language, { maximumFractionDigits: digits }).format(value);
}

export type Rounding = 'down' | 'up';

/**
 * A fraction as a percentage with one decimal. Rounded down unless told otherwise, so that
 * 96.96 % never reads as a met target of 97 %; upper bounds are rounded up.
 */
export function formatPercent(fraction: number, language: string, rounding: Rounding = 'down') {
  const tenths = fraction * 1000;
  const nudge = 1e-6; // 0.29 * 1000 is 289.99999999999994
  const whole = rounding === 'down' ? Math.floor(tenths + nudge) : Math.ceil(tenths - nudge);
  const number = new Intl.NumberFormat(language, {
    minimumFractionDigits: 1,
    maximumFractionDigits: 1,
  }).format(whole / 10);
  return `${number} %`;
}

export type AgeUnit = 'second' | 'minute' | 'hour' | 'day';

/** A span in its largest sensible unit: 90 s is 1 minute, 47 h is 1 day. Never negative. */
export function span(ms: number): { readonly unit: AgeUnit; readonly count: number } {
  const seconds = Math.max(0, Math.floor(ms / 1000));
  if (seconds < 60) return { unit: 'second', count: seconds };
  if (seconds < 3600) return { unit: 'minute', count: Math.floor(seconds / 60) };
  if (seconds < 86_400) return { unit: 'hour', count: Math.floor(seconds / 3600) };
  return { unit: 'day', count: Math.floor(seconds / 86_400) };
}
