// SPDX-License-Identifier: Apache-2.0
/** Lighting last night against its target: value, bounds, verdict, definition. */
import { useEffect, useState } from 'preact/hooks';
import { ApiError, query, request } from '../../api/client';
import type { Indicator, IndicatorSeries, Lighting } from '../../api/types';
import { addDays, formatDay, formatNumber, formatPercent, formatTime } from '../../format';
import { language, t } from '../../i18n';
import { Dialog } from '../../ui/dialog';
import { Icon } from '../../ui/icons';
import { Failure, Loading } from '../../ui/states';
import { clock } from '../../ui/time';
import { VerdictChip } from '../../ui/verdict';
import { uptimeScale } from './scale';

const hours = (seconds: number): string => {
  const digits = seconds < 100 * 3600 ? 1 : 0;
  return t('lighting.lamp_hours', { hours: formatNumber(seconds / 3600, language.value, digits) });
};
const down = (fraction: number): string => formatPercent(fraction, language.value, 'down');
const up = (fraction: number): string => formatPercent(fraction, language.value, 'up');

export function LightingTile({ lighting, area }: { lighting: Lighting | null; area: string }) {
  const [explained, setExplained] = useState(false);
  return (
    <section class="tile lighting-tile" data-testid="lighting-tile" aria-labelledby="lighting-name">
      <header class="tile-head">
        <Icon name="moon" />
        <h2 id="lighting-name">
          {lighting?.in_progress ? t('lighting.tonight') : t('lighting.last_night')}
          {lighting && <span class="muted"> · {formatDay(lighting.night, language.value)}</span>}
        </h2>
        <button
          type="button"
          class="tile-more"
          data-testid="lighting-definition"
          onClick={() => setExplained(true)}
        >
          {t('lighting.definition')}
        </button>
      </header>
      {lighting?.indicator ? (
        <Uptime indicator={lighting.indicator} />
      ) : (
        <p class="no-value" data-testid="lighting-none">
          {t('lighting.none')}
        </p>
      )}
      {lighting && <Due lighting={lighting} />}
      {explained && (
        <Definition
          area={area}
          night={lighting?.night ?? null}
          onClose={() => setExplained(false)}
        />
      )}
    </section>
  );
}

function Due({ lighting }: { lighting: Lighting }) {
  const { next, in_progress: inProgress, due_from: from, due_to: to } = lighting;
  const night = inProgress && from && to ? { due_from: from, due_to: to } : next;
  if (!night) return null;
  return (
    <p class="muted lighting-next" data-testid="lighting-next">
      {t(inProgress ? 'lighting.due_now' : 'lighting.next', {
        from: formatTime(night.due_from, clock()),
        to: formatTime(night.due_to, clock()),
      })}
    </p>
  );
}

function Uptime({ indicator }: { indicator: Indicator }) {
  const { value, lower, upper, target } = indicator;
  // Of lighting these are seconds: known lit, known, and due.
  const { numerator: lit, denominator: known, total: due } = indicator;
  return (
    <>
      <p class="tile-figure">
        {value === null ? (
          <strong class="no-value">{t('lighting.no_value')}</strong>
        ) : (
          <strong data-testid="lighting-value">{down(value)}</strong>
        )}{' '}
        <VerdictChip verdict={indicator.verdict} />
        {indicator.status === 'provisional' && (
          <span class="chip" data-testid="lighting-provisional">
            {t('lighting.provisional')}
          </span>
        )}
      </p>
      {lower !== null && upper !== null && target !== null && (
        <Bar lower={lower} upper={upper} target={target} />
      )}
      {lit !== null && known !== null && due !== null && (
        <p class="lighting-sentence">
          {t('lighting.sentence', {
            lamps: formatNumber(indicator.subjects, language.value),
            due: hours(due),
            lit: hours(lit),
          })}{' '}
          {due > known && t('lighting.unknown', { unknown: hours(due - known) })}
        </p>
      )}
    </>
  );
}

function Bar({ lower, upper, target }: { lower: number; upper: number; target: number }) {
  const scale = uptimeScale(lower, upper, target);
  const share = (part: number): string => `${(part * 100).toFixed(2)}%`;
  return (
    <div class="uptime">
      <div class="uptime-bar" aria-hidden="true">
        <span class="uptime-lit" style={{ width: share(scale.lower) }} />
        <span
          class="uptime-range"
          style={{ left: share(scale.lower), width: share(scale.upper - scale.lower) }}
        />
        <span class="uptime-target" style={{ left: share(scale.target) }} />
      </div>
      <p class="uptime-labels">
        <span class="muted" aria-hidden="true">
          {formatNumber(scale.from * 100, language.value)} %
        </span>
        <span data-testid="lighting-bounds">
          {t('lighting.bounds', { lower: down(lower), upper: up(upper) })}
        </span>
        <span class="target-label">
          {t('lighting.target', { target: `${formatNumber(target * 100, language.value, 1)} %` })}
        </span>
        <span class="muted" aria-hidden="true">
          100 %
        </span>
      </p>
    </div>
  );
}

const NIGHTS = 7;

interface DefinitionProps {
  readonly area: string;
  readonly night: string | null;
  readonly onClose: () => void;
}

function Definition({ area, night, onClose }: DefinitionProps) {
  const [series, setSeries] = useState<IndicatorSeries | null>(null);
  const [error, setError] = useState<ApiError | null>(null);
  const last = night ?? new Date().toISOString().slice(0, 10);

  useEffect(() => {
    const leaving = new AbortController();
    const span = { from: addDays(last, 1 - NIGHTS), to: addDays(last, 1), by: 'night' };
    request<IndicatorSeries>(
      'GET',
      `/areas/${encodeURIComponent(area)}/indicators/lighting-uptime${query(span)}`,
      { signal: leaving.signal },
    ).then(setSeries, (reason: unknown) => {
      if (leaving.signal.aborted) return;
      if (!(reason instanceof ApiError)) throw reason;
      setError(reason);
    });
    return () => leaving.abort();
  }, [area, last]);

  return (
    <Dialog
      id="definition"
      title={t('lighting.definition_title')}
      onClose={onClose}
      testId="definition"
    >
      {error && <Failure error={error} />}
      {!series && !error && <Loading />}
      {series && (
        <>
          <p class="definition-text">{series.definition.formula[language.value]}</p>
          {series.definition.target && (
            <p class="muted">
              {t('lighting.source', {
                target: `${formatNumber(series.definition.target.value * 100, language.value, 1)} %`,
                source:
                  series.definition.target.source_name[language.value] ??
                  series.definition.target.source,
                version: series.definition.rule_version,
              })}
            </p>
          )}
          <h3>{t('lighting.nights')}</h3>
          <Nights items={series.items} />
        </>
      )}
    </Dialog>
  );
}

function Nights({ items }: { items: readonly Indicator[] }) {
  if (!items.length) return <p class="muted">{t('lighting.none')}</p>;
  return (
    <div class="table-wrap">
      <table class="table cards" aria-label={t('lighting.nights')}>
        <thead>
          <tr>
            <th scope="col">{t('lighting.night')}</th>
            <th scope="col" class="num">
              {t('lighting.uptime')}
            </th>
            <th scope="col" class="num">
              {t('lighting.range')}
            </th>
            <th scope="col" class="num">
              {t('lighting.coverage')}
            </th>
            <th scope="col">{t('lighting.verdict')}</th>
          </tr>
        </thead>
        <tbody>
          {[...items].reverse().map((item) => (
            <tr key={item.label}>
              <th scope="row">{formatDay(item.label, language.value)}</th>
              <td class="num" data-label={t('lighting.uptime')}>
                {item.value === null ? t('unit.none') : down(item.value)}
              </td>
              <td class="num" data-label={t('lighting.range')}>
                {item.lower === null || item.upper === null
                  ? t('unit.none')
                  : `${down(item.lower)} – ${up(item.upper)}`}
              </td>
              <td class="num" data-label={t('lighting.coverage')}>
                {item.coverage === null ? t('unit.none') : down(item.coverage)}
              </td>
              <td class="card-wide" data-label={t('lighting.verdict')}>
                <VerdictChip verdict={item.verdict} />
              </td>
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}
