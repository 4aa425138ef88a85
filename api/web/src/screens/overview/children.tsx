// SPDX-License-Identifier: Apache-2.0
import { useState } from 'preact/hooks';
import type { ChildArea } from '../../api/types';
import { formatNumber, formatPercent } from '../../format';
import { type Key, language, nameOf, t } from '../../i18n';
import { usePlace } from '../../navigation';
import { SeverityMark, StateMark } from '../../ui/icons';
import { type Sort, SortHeader } from '../../ui/table';
import { VerdictChip } from '../../ui/verdict';
import { sortedChildren } from './worst';

const COLUMNS: readonly { by: string; label: Key; numeric: boolean }[] = [
  { by: 'name', label: 'area.name', numeric: false },
  { by: 'critical', label: 'area.critical', numeric: true },
  { by: 'unacknowledged', label: 'area.unacknowledged', numeric: true },
  { by: 'fault', label: 'state.fault', numeric: true },
  { by: 'offline', label: 'state.offline', numeric: true },
  { by: 'devices', label: 'area.devices', numeric: true },
];

interface Props {
  readonly items: readonly ChildArea[];
  readonly inProgress: boolean;
}

/** The areas below, worst first until a person sorts otherwise. */
export function ChildAreas({ items, inProgress }: Props) {
  const place = usePlace();
  const uptime = t(inProgress ? 'lighting.tonight' : 'lighting.last_night');
  const [sort, setSort] = useState<Sort | null>(null);
  const nameOfChild = (child: ChildArea): string => nameOf(child, child.area);
  const number = (value: number): string => formatNumber(value, language.value);
  return (
    <section class="panel" data-testid="child-areas" aria-labelledby="child-areas-name">
      <header class="panel-head">
        <h2 id="child-areas-name">{t('area.below')}</h2>
        {sort ? (
          <button type="button" class="link" onClick={() => setSort(null)}>
            {t('area.worst_first')}
          </button>
        ) : (
          <span class="muted">{t('area.worst_first')}</span>
        )}
      </header>
      <div class="table-wrap">
        <table class="table cards" aria-labelledby="child-areas-name">
          <thead>
            <tr>
              {COLUMNS.map(({ by, label, numeric }) => (
                <SortHeader
                  key={by}
                  by={by}
                  label={t(label)}
                  numeric={numeric}
                  sort={sort}
                  onSort={setSort}
                />
              ))}
              <SortHeader by="uptime" label={uptime} numeric sort={sort} onSort={setSort} />
            </tr>
          </thead>
          <tbody>
            {sortedChildren(items, sort, nameOfChild, language.value).map((child) => (
              <tr key={child.area} data-testid="child-area" data-area={child.area}>
                <th scope="row">
                  <a href={place.with({ area: child.area, kind: null, state: null })}>
                    {nameOfChild(child)}
                  </a>
                </th>
                <td class="num" data-label={t('area.critical')}>
                  <span class={child.critical > 0 ? 'severity-critical strong' : 'zero'}>
                    {child.critical > 0 && <SeverityMark severity="critical" />}
                    {number(child.critical)}
                  </span>
                </td>
                <td class="num" data-label={t('area.unacknowledged')}>
                  <span class={child.unacknowledged > 0 ? 'strong' : 'zero'}>
                    {number(child.unacknowledged)}
                  </span>
                </td>
                <td class="num" data-label={t('state.fault')}>
                  <span class={child.fault > 0 ? 'state-fault strong' : 'zero'}>
                    {child.fault > 0 && <StateMark state="fault" />}
                    {number(child.fault)}
                  </span>
                </td>
                <td class="num" data-label={t('state.offline')}>
                  <span class={child.offline > 0 ? 'state-offline strong' : 'zero'}>
                    {child.offline > 0 && <StateMark state="offline" />}
                    {number(child.offline)}
                  </span>
                </td>
                <td class="num card-hidden" data-label={t('area.devices')}>
                  {number(child.devices)}
                </td>
                <td class="num card-wide" data-label={uptime}>
                  <Uptime child={child} />
                </td>
              </tr>
            ))}
          </tbody>
        </table>
      </div>
    </section>
  );
}

function Uptime({ child: { uptime } }: { child: ChildArea }) {
  if (!uptime || uptime.value === null) return <span class="zero">{t('lighting.no_value')}</span>;
  const { value, lower, upper } = uptime;
  const bounds =
    lower === null || upper === null
      ? ''
      : t('lighting.bounds', {
          lower: formatPercent(lower, language.value, 'down'),
          upper: formatPercent(upper, language.value, 'up'),
        });
  return (
    <span class="child-uptime" title={bounds}>
      <span class="uptime-pair">
        <strong>{formatPercent(value, language.value)}</strong>
        {lower !== null && upper !== null && upper - lower >= 0.0005 && (
          <span class="muted small">
            {formatPercent(lower, language.value, 'down')} –{' '}
            {formatPercent(upper, language.value, 'up')}
          </span>
        )}
      </span>
      <VerdictChip verdict={uptime.verdict} />
    </span>
  );
}
