// SPDX-License-Identifier: Apache-2.0
import type { ChildArea, City } from '../../api/types';
import { formatNumber } from '../../format';
import { language, nameOf, t } from '../../i18n';
import { usePlace } from '../../navigation';
import { StateMark } from '../../ui/icons';
import { Age } from '../../ui/time';

interface Props {
  readonly items: readonly City[];
  readonly below: readonly ChildArea[];
}

/** In place of devices, which are their cities' own: whose numbers these are, and how fresh. */
export function Cities({ items, below }: Props) {
  const place = usePlace();
  const stale = items.filter((city) => city.stale).length;
  return (
    <section class="panel" data-testid="cities" aria-labelledby="cities-name">
      <header class="panel-head">
        <h2 id="cities-name">{t('city.title')}</h2>
        {stale > 0 && (
          <span class="state-fault strong">{t('city.stale_of', { count: stale })}</span>
        )}
      </header>
      <p class="panel-text">
        {t('city.explained')} <a href={place.to('/indicators')}>{t('city.to_numbers')}</a>
      </p>
      <div class="table-wrap">
        <table class="table cards" aria-labelledby="cities-name">
          <thead>
            <tr>
              <th scope="col">{t('area.name')}</th>
              <th scope="col">{t('gateway.link')}</th>
              <th scope="col">{t('gateway.last_seen')}</th>
              <th scope="col">{t('city.told')}</th>
              <th scope="col" class="num">
                {t('city.waiting')}
              </th>
            </tr>
          </thead>
          <tbody>
            {items.map((city) => (
              <Row key={city.city} city={city} />
            ))}
          </tbody>
        </table>
      </div>
      {below.length > 0 && (
        <p class="panel-foot" data-testid="city-areas">
          {t('area.below')}:{' '}
          {below.map((child, n) => (
            <span key={child.area}>
              {n > 0 && ' · '}
              <a href={place.with({ area: child.area, kind: null, state: null })}>
                {nameOf(child, child.area)}
              </a>
            </span>
          ))}
        </p>
      )}
    </section>
  );
}

function Row({ city }: { city: City }) {
  const { stale, waiting } = city;
  return (
    <tr
      class={stale ? 'attention-row' : undefined}
      data-testid="city"
      data-city={city.city}
      data-stale={stale}
    >
      <th scope="row">{nameOf(city, city.area)}</th>
      <td data-label={t('gateway.link')}>
        <span class={`with-mark ${stale ? 'state-fault strong' : ''}`}>
          <StateMark state={stale ? 'offline' : 'normal'} />
          {t(stale ? 'city.stale' : 'gateway.heard')}
        </span>
      </td>
      <td data-label={t('gateway.last_seen')}>
        <Age at={city.last_seen_at} ago />
      </td>
      <td data-label={t('city.told')}>
        <Age at={city.told_at} ago />
      </td>
      <td class="num" data-label={t('city.waiting')}>
        {waiting === null ? t('unit.none') : formatNumber(waiting, language.value)}
      </td>
    </tr>
  );
}
