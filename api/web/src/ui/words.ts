// SPDX-License-Identifier: Apache-2.0
/** What the data says, in words: keys and parameters come from the platform, texts from the catalogue. */
import type { Alert, Values } from '../api/types';
import { formatNumber } from '../format';
import { language, named, nameOf, t, template } from '../i18n';
import { areas } from '../session';
import { placeholders } from './template';

export function alertTitle(alert: Pick<Alert, 'rule' | 'rule_name'>): string {
  if (alert.rule_name !== null) return alert.rule_name[language.value];
  return named(`rule.${alert.rule}.title`, t('rule.unknown.title', { rule: alert.rule }));
}

/** What the rule saw, as one sentence; null when the catalogue has none or the data is not enough. */
export function alertDetail(alert: Pick<Alert, 'rule' | 'params'>): string | null {
  const key = `rule.${alert.rule}.detail`;
  const text = template(key);
  if (text === null) return null;
  const params: Record<string, string> = {};
  for (const name of placeholders(text)) {
    const value = alert.params[name];
    if (value === undefined || value === null) return null;
    params[name] = valueWord(name, value);
  }
  return named(key, '', params);
}

/** What mutes an alert by design: `gateway:gw-7`, `circuit:c01/c01-a`, `window:…`. */
export function causeName(cause: string): string {
  const [kind = '', key = ''] = cause.split(/:(.*)/);
  // A circuit's name is its own within its community only; which one is told beside it.
  const id = kind === 'circuit' ? key.slice(key.indexOf('/') + 1) : key;
  return named(`cause.${kind}`, cause, { id });
}

export function kindName(kind: string): string {
  return named(`kind.${kind}`, kind);
}

export function subjectName(alert: Alert): string {
  return nameOf(alert, alert.subject);
}

export function areaName(id: string): string {
  const area = areas.value.get(id);
  return area ? nameOf(area, id) : id;
}

/** Where something is, told from the area on screen: a cell alone names no community. */
export function placeName(id: string, here: string): string {
  const area = areas.value.get(id);
  if (area?.level !== 'cell' || area.parent === null || area.parent === here) return areaName(id);
  return `${areaName(area.parent)} · ${areaName(id)}`;
}

export function fieldName(name: string): string {
  return named(`field.${name}`, name);
}

/** A value in the word or number of its field, with its unit. */
export function valueWord(name: string, value: unknown): string {
  if (typeof value === 'number') {
    const unit = unitOf(name);
    const number = formatNumber(value, language.value, 1);
    return unit === '' ? number : `${number} ${unit}`;
  }
  const raw = String(value);
  // A detector's zone may be a grid cell, which people know by its name.
  if (name === 'zone') return areaName(raw);
  return named(`value.${name}.${raw}`, raw);
}

function unitOf(name: string): string {
  const suffix = name.slice(name.lastIndexOf('_') + 1);
  return named(`unit.${suffix}`, '');
}

/** Never shown in a list: keys of other records, and who came by. */
const HIDDEN = new Set(['credential', 'occurrence', 'occurrence_id', 'event_id', 'kind', 'device']);

export function shownValues(values: Values): readonly (readonly [string, unknown])[] {
  return Object.entries(values).filter(
    ([name, value]) =>
      !HIDDEN.has(name) && value !== null && value !== undefined && typeof value !== 'object',
  );
}

/** The two foremost values of a device, for one line of text. */
export function gistOf(values: Values): string {
  return shownValues(values)
    .filter(([name]) => name !== 'fault')
    .slice(0, 2)
    .map(([name, value]) =>
      typeof value === 'number'
        ? `${fieldName(name)} ${valueWord(name, value)}`
        : valueWord(name, value),
    )
    .join(' · ');
}

export function faultWord(code: string): string {
  return valueWord('fault', code);
}
