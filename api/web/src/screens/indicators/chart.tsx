// SPDX-License-Identifier: Apache-2.0
/** The days of a month: value, bounds, target. Every number stands in the table below as well. */
import { useLayoutEffect, useRef, useState } from 'preact/hooks';
import type { Indicator, IndicatorDefinition } from '../../api/types';
import { formatDay } from '../../format';
import { language, t } from '../../i18n';
import { VerdictChip } from '../../ui/verdict';
import { type Axis, axisOf, placeOn, type Slot, slotsOf } from './bounds';
import { missing } from './missing';
import { boundsText, coverageText, limitText, plain, Value, valueText } from './say';

const HEIGHT = 190;
const LEFT = 56;
const RIGHT = 8;
const TOP = 10;
const BOTTOM = 24;

interface Props {
  readonly definition: IndicatorDefinition;
  readonly days: readonly string[];
  readonly items: readonly Indicator[];
}

export function DayChart({ definition, days, items }: Props) {
  const figure = useRef<HTMLElement>(null);
  const width = useWidth(figure);
  const slots = slotsOf(days, items);
  const told = slots.filter(({ item }) => missing(definition, item) === null);
  if (told.length === 0) return <p class="muted">{t('indicators.chart.none')}</p>;
  return (
    <figure class="chart" ref={figure} data-testid="day-chart">
      <svg
        width={width}
        height={HEIGHT}
        viewBox={`0 0 ${width} ${HEIGHT}`}
        aria-hidden="true"
        focusable="false"
      >
        <defs>
          <pattern
            id="chart-hatch"
            width="5"
            height="5"
            patternUnits="userSpaceOnUse"
            patternTransform="rotate(45)"
          >
            <rect class="chart-hatch" width="2" height="5" />
          </pattern>
        </defs>
        <Plot definition={definition} slots={slots} width={width} />
      </svg>
      <figcaption>
        {sentence(definition, told)}{' '}
        <span class="block small" aria-hidden="true">
          {t(definition.shape === 'share' ? 'indicators.chart.key_share' : 'indicators.chart.key')}
        </span>
      </figcaption>
      <details>
        <summary>{t('indicators.chart.table')}</summary>
        <DayTable definition={definition} slots={slots.filter(({ item }) => item !== null)} />
      </details>
    </figure>
  );
}

function Plot({
  definition,
  slots,
  width,
}: {
  definition: IndicatorDefinition;
  slots: readonly Slot[];
  width: number;
}) {
  const target = definition.target?.value ?? null;
  const axis = axisOf(definition.unit, [
    target,
    ...slots.flatMap(({ item }) =>
      item && missing(definition, item) === null ? [item.value, item.lower, item.upper] : [],
    ),
  ]);
  const step = (width - LEFT - RIGHT) / slots.length;
  const y = (value: number): number => TOP + (1 - placeOn(axis, value)) * (HEIGHT - TOP - BOTTOM);
  return (
    <>
      {gridOf(axis, definition).map((value) => (
        <g key={value}>
          <line class="chart-grid" x1={LEFT} x2={width - RIGHT} y1={y(value)} y2={y(value)} />
          <text class="chart-text" x={LEFT - 6} y={y(value) + 4} text-anchor="end">
            {value === 0 ? '0' : plain(value, definition.unit)}
          </text>
        </g>
      ))}
      {slots.map(({ day, item }, index) => {
        const x = LEFT + index * step;
        const number = Number(day.slice(8));
        return (
          <g key={day}>
            {(number === 1 || number % 5 === 0) && (
              <text class="chart-text" x={x + step / 2} y={HEIGHT - 6} text-anchor="middle">
                {number}
              </text>
            )}
            {item && missing(definition, item) === null && item.value !== null && (
              <Mark item={item} value={item.value} x={x} step={step} y={y} />
            )}
          </g>
        );
      })}
      {target !== null && (
        <line class="chart-target" x1={LEFT} x2={width - RIGHT} y1={y(target)} y2={y(target)} />
      )}
    </>
  );
}

interface MarkProps {
  readonly item: Indicator;
  readonly value: number;
  readonly x: number;
  readonly step: number;
  readonly y: (value: number) => number;
}

function Mark({ item: { lower, upper, status }, value, x, step, y }: MarkProps) {
  const gap = Math.max(1, step * 0.16);
  const width = step - 2 * gap;
  const top = y(upper ?? value);
  const solid = y(lower ?? value);
  const base = HEIGHT - BOTTOM;
  return (
    <g class={`chart-day ${status}`}>
      <rect
        class="chart-solid"
        x={x + gap}
        y={solid}
        width={width}
        height={Math.max(0, base - solid)}
      />
      {solid - top > 0.5 && (
        <rect fill="url(#chart-hatch)" x={x + gap} y={top} width={width} height={solid - top} />
      )}
      <line class="chart-value" x1={x + gap} x2={x + gap + width} y1={y(value)} y2={y(value)} />
    </g>
  );
}

function gridOf({ from, to }: Axis, { unit }: IndicatorDefinition): readonly number[] {
  // Half a case does not happen.
  if (unit === 'count' && to % 2 !== 0) return [from, to];
  return [from, (from + to) / 2, to];
}

function sentence(definition: IndicatorDefinition, told: readonly Slot[]): string {
  const ordered = told
    .flatMap(({ item }) => (item ? [item] : []))
    .sort((a, b) => (a.value ?? 0) - (b.value ?? 0));
  const lowest = ordered[0];
  const highest = ordered.at(-1);
  if (!lowest || !highest) return '';
  return [
    t('indicators.chart.sentence', {
      count: told.length,
      low: valueText(definition, lowest),
      low_day: formatDay(lowest.label, language.value),
      high: valueText(definition, highest),
      high_day: formatDay(highest.label, language.value),
    }),
    ...(definition.target
      ? [t('indicators.chart.target', { target: limitText(definition, definition.target) })]
      : []),
  ].join(' ');
}

function DayTable({
  definition,
  slots,
}: {
  definition: IndicatorDefinition;
  slots: readonly Slot[];
}) {
  const bounded = slots.some(({ item }) => item !== null && item.lower !== null);
  return (
    <div class="table-wrap">
      <table class="table cards" aria-label={t('indicators.days')}>
        <thead>
          <tr>
            <th scope="col">{t('indicators.day')}</th>
            <th scope="col" class="num">
              {t('indicators.value')}
            </th>
            {bounded && (
              <>
                <th scope="col" class="num">
                  {t('lighting.range')}
                </th>
                <th scope="col" class="num">
                  {t('lighting.coverage')}
                </th>
              </>
            )}
            {definition.target && <th scope="col">{t('lighting.verdict')}</th>}
            <th scope="col">{t('indicators.standing')}</th>
          </tr>
        </thead>
        <tbody>
          {[...slots].reverse().map(({ day, item }) => (
            <tr key={day}>
              <th scope="row">{formatDay(day, language.value)}</th>
              <td class="num" data-label={t('indicators.value')}>
                <Value definition={definition} item={item} />
              </td>
              {bounded && (
                <>
                  <td class="num" data-label={t('lighting.range')}>
                    {(item && boundsText(definition, item)) ?? t('unit.none')}
                  </td>
                  <td class="num" data-label={t('lighting.coverage')}>
                    {coverageText(item?.coverage ?? null)}
                  </td>
                </>
              )}
              {definition.target && (
                <td data-label={t('lighting.verdict')}>
                  <VerdictChip verdict={item?.verdict ?? null} />
                </td>
              )}
              <td class="muted" data-label={t('indicators.standing')}>
                {item && t(`indicators.status.${item.status}`)}
              </td>
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}

/** The width there is, so that text in the drawing keeps its size. */
function useWidth(element: { readonly current: HTMLElement | null }): number {
  const [width, setWidth] = useState(640);
  useLayoutEffect(() => {
    const { current } = element;
    if (!current) return undefined;
    const measure = (): void => setWidth(Math.max(240, Math.floor(current.clientWidth)));
    measure();
    const observer = new ResizeObserver(measure);
    observer.observe(current);
    return () => observer.disconnect();
  }, [element]);
  return width;
}
