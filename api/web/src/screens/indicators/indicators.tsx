// SPDX-License-Identifier: Apache-2.0
/** Indicators: what an area has to prove in a month, each with bounds, verdict and definition. */
import { query } from '../../api/client';
import type { Indicator, IndicatorSeries, IndicatorTable } from '../../api/types';
import { useAnswer } from '../../api/use';
import { dayOf, formatMonth } from '../../format';
import { language, named, nameOf, t } from '../../i18n';
import { now } from '../../live/store';
import { usePlace } from '../../navigation';
import { areas } from '../../session';
import { Icon, type IconName } from '../../ui/icons';
import { Empty, Failure, Loading } from '../../ui/states';
import { zone } from '../../ui/time';
import { IndicatorDialog } from './detail';
import { lastMonths, windowOf } from './month';
import { IndicatorRow } from './row';
import { text } from './say';

const MONTHS = 12;
const REFRESH_MS = 5 * 60_000;
const FORMATS = ['xlsx', 'pdf', 'csv'] as const;
const ICONS: Readonly<Record<string, IconName>> = {
  lighting: 'lamp',
  equipment: 'device',
  refuse: 'bin',
  access: 'gate',
  security: 'alarm',
};

export default function IndicatorsScreen() {
  const place = usePlace();
  const here = areas.value.get(place.area);
  const today = dayOf(new Date(now.peek()), here?.time_zone ?? zone.value);
  const months = lastMonths(today, MONTHS);
  const [present = today.slice(0, 7)] = months;
  const month = months.find((one) => one === place.query.month) ?? present;
  const window = windowOf(month, today);
  const path = `/areas/${encodeURIComponent(place.area)}`;
  const { answer, error, again } = useAnswer<IndicatorTable>(
    `${path}/indicators${query({ ...window })}`,
    month === present ? REFRESH_MS : null,
  );
  const opened = answer?.items.find(
    ({ definition }) => definition.indicator === place.query.indicator,
  );
  return (
    <div class="indicators">
      <header class="screen-head">
        <h1>{t('nav.indicators')}</h1>
        <label class="month">
          <span>{t('indicators.month')}</span>
          <select
            value={month}
            data-testid="month"
            onChange={({ currentTarget: { value } }) =>
              place.go(place.with({ month: value === present ? null : value }))
            }
          >
            {months.map((one) => (
              <option key={one} value={one}>
                {formatMonth(one, language.value)}
              </option>
            ))}
          </select>
        </label>
        <Downloads path={path} month={month} />
      </header>
      {!answer && error && <Failure error={error} onRetry={again} />}
      {!answer && error?.status === 404 && (
        <p class="centered">
          <a href={place.with({ area: null })}>{t('area.home')}</a>
        </p>
      )}
      {!answer && !error && <Loading rows={8} />}
      {answer && (
        <>
          {answer.items.every(({ items }) => items.every(isNothing)) ? (
            <Empty
              title={t('indicators.empty', {
                area: here ? nameOf(here, here.area) : place.area,
                month: formatMonth(month, language.value),
              })}
            >
              {month !== present && (
                <a class="button" href={place.with({ month: null })}>
                  {t('indicators.this_month')}
                </a>
              )}
            </Empty>
          ) : (
            <Domains
              items={answer.items}
              onOpen={(indicator) => place.go(place.with({ indicator }))}
            />
          )}
          {opened && (
            <IndicatorDialog
              key={`${place.area}|${month}`}
              series={opened}
              area={place.area}
              month={month}
              window={window}
              onClose={() => place.go(place.with({ indicator: null }), true)}
            />
          )}
        </>
      )}
    </div>
  );
}

/** Rates and times are answered for any month, before there was anything to count, too. */
function isNothing({ value, total }: Indicator): boolean {
  return value === null && !total;
}

function Downloads({ path, month }: { path: string; month: string }) {
  return (
    // biome-ignore lint/a11y/useSemanticElements: a fieldset cannot be laid out in one line everywhere.
    <div class="downloads" role="group" aria-label={t('indicators.report')}>
      <span class="muted">{t('indicators.report')}</span>
      {FORMATS.map((format) => (
        <a
          key={format}
          class="button small"
          href={`/api/v1${path}/reports/${month}.${format}${query({ language: language.value })}`}
          download
          aria-label={t('indicators.download', {
            format: format.toUpperCase(),
            month: formatMonth(month, language.value),
          })}
          data-testid={`report-${format}`}
        >
          <Icon name="download" size={16} />
          {format.toUpperCase()}
        </a>
      ))}
    </div>
  );
}

interface DomainsProps {
  readonly items: readonly IndicatorSeries[];
  readonly onOpen: (indicator: string) => void;
}

function Domains({ items, onOpen }: DomainsProps) {
  const domains = [...new Set(items.map(({ definition }) => definition.domain))];
  const sources = new Map(
    items.flatMap(({ definition: { target } }) =>
      target ? [[target.source, text(target.source_name, target.source)] as const] : [],
    ),
  );
  return (
    <>
      <p class="legend" aria-hidden="true">
        <span>
          <i class="legend-band" /> {t('indicators.legend.bounds')}
        </span>
        <span>
          <i class="legend-value" /> {t('indicators.legend.value')}
        </span>
        <span>
          <i class="legend-target" /> {t('indicators.legend.target')}
        </span>
      </p>
      {domains.map((domain) => (
        <section
          key={domain}
          class="panel"
          aria-labelledby={`domain-${domain}`}
          data-testid={`domain-${domain}`}
        >
          <header class="panel-head">
            <h2 id={`domain-${domain}`} class="with-mark">
              <Icon name={ICONS[domain] ?? 'indicators'} />
              {named(`indicators.domain.${domain}`, domain)}
            </h2>
          </header>
          <div class="table-wrap">
            <table class="table cards indicator-table" aria-labelledby={`domain-${domain}`}>
              <thead>
                <tr>
                  <th scope="col">{t('indicators.name')}</th>
                  <th scope="col" class="num">
                    {t('indicators.value')}
                  </th>
                  <th scope="col">{t('lighting.range')}</th>
                  <th scope="col" class="num">
                    {t('lighting.coverage')}
                  </th>
                  <th scope="col">{t('indicators.target')}</th>
                  <th scope="col">{t('lighting.verdict')}</th>
                </tr>
              </thead>
              <tbody>
                {items
                  .filter(({ definition }) => definition.domain === domain)
                  .map((series) => (
                    <IndicatorRow
                      key={series.definition.indicator}
                      series={series}
                      onOpen={() => onOpen(series.definition.indicator)}
                    />
                  ))}
              </tbody>
            </table>
          </div>
        </section>
      ))}
      {sources.size > 0 && (
        <dl class="sources" aria-label={t('indicators.sources')}>
          {[...sources].sort().map(([source, name]) => (
            <div key={source}>
              <dt>{source}</dt>
              <dd>{name}</dd>
            </div>
          ))}
        </dl>
      )}
    </>
  );
}
