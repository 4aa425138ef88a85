// SPDX-License-Identifier: Apache-2.0
/** Times on screen: in the zone of the area shown, exact on demand. */
import { computed } from '@preact/signals';
import { type Clock, formatDateTime, formatExact, span } from '../format';
import type { Key } from '../i18n';
import { language, t } from '../i18n';
import { now, picture } from '../live/store';
import { areas, me } from '../session';

export const zone = computed(
  () =>
    picture.value?.overview.area.time_zone ??
    areas.value.get(me.value?.area ?? '')?.time_zone ??
    'Asia/Shanghai',
);

export function clock(): Clock {
  return { language: language.value, zone: zone.value };
}

export function spanWords(ms: number): string {
  const { unit, count } = span(ms);
  return t(`span.${unit}` as Key, { count });
}

export function exact(at: string | null): string {
  return at === null ? t('unit.none') : formatExact(at, clock());
}

export function When({ at }: { at: string | null }) {
  if (at === null) return <span class="muted">{t('unit.none')}</span>;
  // The date appears once the day is over; `peek` because a list need not be redrawn every second.
  return (
    <time dateTime={at} title={exact(at)}>
      {formatDateTime(at, now.peek(), clock())}
    </time>
  );
}

/** How long ago, kept current. */
export function Age({ at, ago = false }: { at: string | null; ago?: boolean }) {
  if (at === null) return <span class="muted">{t('unit.none')}</span>;
  const words = spanWords(now.value - Date.parse(at));
  return (
    <time dateTime={at} title={exact(at)}>
      {ago ? t('span.ago', { span: words }) : words}
    </time>
  );
}
