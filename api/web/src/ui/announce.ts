// SPDX-License-Identifier: Apache-2.0
/** Live regions: polite for new alerts, assertive for critical ones, at most one in five seconds. */
import { signal } from '@preact/signals';
import type { Alert } from '../api/types';
import { t } from '../i18n';
import { alertTitle } from './words';

const GAP_MS = 5_000;

export const politely = signal('');
export const assertively = signal('');

let waiting: Alert[] = [];
let timer: ReturnType<typeof setTimeout> | null = null;
let spokenAt = Number.NEGATIVE_INFINITY;

export function announceAlerts(alerts: readonly Alert[]): void {
  if (!alerts.length) return;
  waiting.push(...alerts);
  if (timer !== null) return;
  timer = setTimeout(speak, Math.max(0, spokenAt + GAP_MS - Date.now()));
}

function speak(): void {
  timer = null;
  spokenAt = Date.now();
  const critical = waiting.filter((alert) => alert.severity === 'critical');
  const others = waiting.filter((alert) => alert.severity !== 'critical');
  waiting = [];
  if (critical.length) assertively.value = sentence(critical);
  if (others.length) politely.value = sentence(others);
}

function sentence(alerts: readonly Alert[]): string {
  const first = alerts[0];
  if (first && alerts.length === 1) {
    return t('alerts.announce', {
      severity: t(`severity.${first.severity}`),
      title: alertTitle(first),
    });
  }
  return t('alerts.new', { count: alerts.length });
}

/** For the result of what the person did. */
export function say(text: string): void {
  politely.value = text;
}
