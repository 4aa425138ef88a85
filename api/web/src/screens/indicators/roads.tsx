// SPDX-License-Identifier: Apache-2.0
/** The roads that a share of roads is made of, the worst first. */
import { query } from '../../api/client';
import type { Road, Roads } from '../../api/types';
import { useAnswer } from '../../api/use';
import { formatDay } from '../../format';
import { language, t } from '../../i18n';
import { Failure, Loading } from '../../ui/states';
import { areaName } from '../../ui/words';
import type { Window } from './month';

const SHOWN = 20;

export function RoadList({ area, window }: { area: string; window: Window }) {
  const path = `/areas/${encodeURIComponent(area)}/roads`;
  const { answer, error, again } = useAnswer<Roads>(
    `${path}${query({ ...window, limit: String(SHOWN) })}`,
  );
  return (
    <>
      <h3>{t('indicators.roads')}</h3>
      {!answer && (error ? <Failure error={error} onRetry={again} /> : <Loading rows={2} />)}
      {answer?.items.length === 0 && <p class="muted">{t('indicators.roads_none')}</p>}
      {answer && answer.items.length > 0 && <RoadTable items={answer.items} />}
    </>
  );
}

function RoadTable({ items }: { items: readonly Road[] }) {
  return (
    <div class="table-wrap">
      <table class="table cards" aria-label={t('indicators.roads')} data-testid="indicator-roads">
        <thead>
          <tr>
            <th scope="col">{t('indicators.road')}</th>
            <th scope="col" class="num">
              {t('indicators.road_over')}
            </th>
            <th scope="col" class="num">
              {t('indicators.road_open')}
            </th>
            <th scope="col" class="num">
              {t('indicators.road_dark')}
            </th>
            <th scope="col" class="num">
              {t('indicators.road_limit')}
            </th>
            <th scope="col">{t('indicators.road_worst')}</th>
          </tr>
        </thead>
        <tbody>
          {items.map((one) => (
            <tr key={`${one.community}|${one.road}`}>
              <th scope="row">
                {one.road} <span class="muted small">{areaName(one.community)}</span>
              </th>
              <td class="num" data-label={t('indicators.road_over')}>
                {t('indicators.part_of', { n: one.not_met, all: one.nights })}
              </td>
              <td class="num" data-label={t('indicators.road_open')}>
                {one.undetermined}
              </td>
              <td class="num" data-label={t('indicators.road_dark')}>
                {t('indicators.part_of', { n: one.dark, all: one.lamps })}
              </td>
              <td class="num" data-label={t('indicators.road_limit')}>
                {one.dark_max ?? t('unit.none')}
              </td>
              <td data-label={t('indicators.road_worst')}>
                {formatDay(one.worst_night, language.value)}
              </td>
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}
