// SPDX-License-Identifier: Apache-2.0
/** One indicator, one click from its number: what it means, what it counts, days, areas below. */
import { query } from '../../api/client';
import type {
  Indicator,
  IndicatorDefinition,
  IndicatorRevision,
  IndicatorRevisions,
  IndicatorSeries,
} from '../../api/types';
import { type Asked, useAnswer } from '../../api/use';
import { formatDay, formatMonth } from '../../format';
import { language, named, t } from '../../i18n';
import { usePlace } from '../../navigation';
import { areas } from '../../session';
import { Dialog } from '../../ui/dialog';
import { Failure, Loading } from '../../ui/states';
import { exact } from '../../ui/time';
import { VerdictChip } from '../../ui/verdict';
import { areaName, kindName } from '../../ui/words';
import { DayChart } from './chart';
import { daysIn, daysOf, type Window } from './month';
import { before, ofDays, partsOf } from './parts';
import { RoadList } from './roads';
import { Bounds, hasBounds, Standing } from './row';
import { boundsText, coverageText, limitText, nameOfIndicator, say, text, Value } from './say';

const RESTATED_SHOWN = 6;
const ROADS = 'roads-within-limit';

interface Props {
  /** The month's numbers: all classes together, and by class. */
  readonly series: IndicatorSeries;
  readonly area: string;
  readonly month: string;
  readonly window: Window;
  readonly onClose: () => void;
}

export function IndicatorDialog({ series, area, month, window, onClose }: Props) {
  const { definition, items } = series;
  const item = items.find(({ kind }) => kind === '');
  const byKind = items.filter(({ kind }) => kind !== '');
  const path = `/areas/${encodeURIComponent(area)}/indicators/${definition.indicator}`;
  return (
    <Dialog
      id="indicator"
      title={
        <>
          {nameOfIndicator(definition)}{' '}
          <span class="muted dialog-of">
            {areaName(area)} · {formatMonth(month, language.value)}
          </span>
        </>
      }
      subject={definition.indicator}
      testId="indicator-dialog"
      onClose={onClose}
    >
      <div class="indicator-head">
        <p class="tile-figure">
          <Value definition={definition} item={item} absent={series.absent ?? null} />
          {item && <VerdictChip verdict={item.verdict} />}
          {item && <Standing item={item} />}
        </p>
        {item && hasBounds(definition, item) && (
          <div class="indicator-bounds">
            <Bounds definition={definition} item={item} />
          </div>
        )}
      </div>
      <Meaning definition={definition} />
      {item && <Parts definition={definition} item={item} window={window} />}
      {byKind.length > 0 && <Kinds definition={definition} items={byKind} />}
      <h3>{t(definition.shape === 'rate' ? 'indicators.days_cases' : 'indicators.days')}</h3>
      {definition.shape === 'times' ? (
        <p class="muted">{t('indicators.chart.times')}</p>
      ) : (
        <Days path={path} month={month} window={window} />
      )}
      {definition.indicator === ROADS && <RoadList area={area} window={window} />}
      {(areas.value.get(area)?.children ?? 0) > 0 && (
        <Children path={path} definition={definition} window={window} />
      )}
      <Revisions path={path} definition={definition} window={window} />
    </Dialog>
  );
}

function Meaning({ definition }: { definition: IndicatorDefinition }) {
  const { formula, target, rule_version: version } = definition;
  return (
    <>
      <h3>{t('lighting.definition')}</h3>
      <p class="definition-text" data-testid="indicator-formula">
        {text(formula, definition.indicator)}
      </p>
      <p class="muted">
        {target
          ? t('indicators.target_of', {
              target: limitText(definition, target),
              source: target.source,
              name: text(target.source_name, target.source),
            })
          : t('indicators.no_target_why')}{' '}
        <span class="nowrap">{t('indicators.rule_version', { n: version })}</span>
      </p>
    </>
  );
}

interface OfWindow {
  readonly definition: IndicatorDefinition;
  readonly window: Window;
}

function Parts({ definition, item, window }: OfWindow & { item: Indicator }) {
  const excluded = Object.entries(item.excluded).filter(([, amount]) => amount > 0);
  return (
    <>
      <h3>{t('indicators.parts')}</h3>
      <dl class="facts parts" data-testid="indicator-parts">
        {partsOf(definition, item, daysIn(window)).map(({ name, amount, unit }) => (
          <div key={name}>
            <dt>{t(`indicators.part.${name}`)}</dt>
            <dd>{say(amount, unit)}</dd>
          </div>
        ))}
        {item.coverage !== null && (
          <div>
            <dt>
              {t(definition.shape === 'rate' ? 'indicators.days_known' : 'lighting.coverage')}
            </dt>
            <dd>{coverageText(item.coverage)}</dd>
          </div>
        )}
        {item.p90 !== null && (
          <div>
            <dt>{t('indicators.part_p90')}</dt>
            <dd>{say(item.p90, definition.unit)}</dd>
          </div>
        )}
        {excluded.map(([reason, amount]) => (
          <div key={reason}>
            <dt>
              {t('indicators.excluded_for', {
                reason: named(`indicators.excluded.${reason}`, reason),
              })}
            </dt>
            <dd>{say(amount, definition.parts_unit)}</dd>
          </div>
        ))}
      </dl>
    </>
  );
}

function Kinds({
  definition,
  items,
}: {
  definition: IndicatorDefinition;
  items: readonly Indicator[];
}) {
  return (
    <>
      <h3>{t('indicators.by_kind')}</h3>
      <Numbers
        label={t('indicators.by_kind')}
        first={t('indicators.kind')}
        definition={definition}
        rows={items.map((item) => ({ key: item.kind, name: kindName(item.kind), item }))}
      />
    </>
  );
}

interface OfPath {
  readonly path: string;
  readonly window: Window;
}

function Days({ path, month, window }: OfPath & { month: string }) {
  const asked = useAnswer<IndicatorSeries>(`${path}${query({ ...window, by: 'day' })}`);
  if (!asked.answer) return <Pending asked={asked} />;
  const { definition, items } = ofDays(asked.answer.definition, asked.answer.items);
  if (asked.answer.definition.shape === 'rate' && items.length === 0) {
    return <p class="muted">{t('indicators.chart.no_cases')}</p>;
  }
  return <DayChart definition={definition} days={daysOf(month)} items={items} />;
}

function Children({ path, definition, window }: OfPath & OfWindow) {
  const place = usePlace();
  const asked = useAnswer<IndicatorSeries>(`${path}${query({ ...window, by: 'child' })}`);
  const items = asked.answer?.items.filter(({ kind }) => kind === '') ?? [];
  return (
    <>
      <h3>{t('area.below')}</h3>
      {!asked.answer && <Pending asked={asked} />}
      {asked.answer && items.length === 0 && <p class="muted">{t('indicators.no_children')}</p>}
      {items.length > 0 && (
        <Numbers
          label={t('area.below')}
          first={t('area.name')}
          testId="indicator-children"
          definition={definition}
          rows={items.map((item) => ({
            key: item.label,
            name: areaName(item.label),
            href: place.with({ area: item.label }),
            item,
          }))}
        />
      )}
    </>
  );
}

interface Row {
  readonly key: string;
  readonly name: string;
  readonly href?: string;
  readonly item: Indicator;
}

interface NumbersProps {
  readonly label: string;
  readonly first: string;
  readonly definition: IndicatorDefinition;
  readonly rows: readonly Row[];
  readonly testId?: string;
}

function Numbers({ label, first, definition, rows, testId }: NumbersProps) {
  const bounded = definition.shape !== 'sum';
  return (
    <div class="table-wrap">
      <table class="table cards" aria-label={label} data-testid={testId}>
        <thead>
          <tr>
            <th scope="col">{first}</th>
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
          </tr>
        </thead>
        <tbody>
          {rows.map(({ key, name, href, item }) => (
            <tr key={key}>
              <th scope="row">{href ? <a href={href}>{name}</a> : name}</th>
              <td class="num" data-label={t('indicators.value')}>
                <Value definition={definition} item={item} />
              </td>
              {bounded && (
                <>
                  <td class="num" data-label={t('lighting.range')}>
                    {hasBounds(definition, item) ? boundsText(definition, item) : t('unit.none')}
                  </td>
                  <td class="num" data-label={t('lighting.coverage')}>
                    {coverageText(item.coverage)}
                  </td>
                </>
              )}
              {definition.target && (
                <td data-label={t('lighting.verdict')}>
                  <VerdictChip verdict={item.verdict} />
                </td>
              )}
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}

function Revisions({ path, definition, window }: OfPath & OfWindow) {
  const asked = useAnswer<IndicatorRevisions>(`${path}/revisions${query({ ...window })}`);
  if (asked.error) {
    return (
      <>
        <h3>{t('indicators.restated')}</h3>
        <Failure error={asked.error} onRetry={asked.again} />
      </>
    );
  }
  // Every class was restated with the whole: once is enough.
  const items = asked.answer?.items.filter(({ kind }) => kind === '') ?? [];
  if (items.length === 0) return null;
  const rest = items.slice(RESTATED_SHOWN);
  return (
    <>
      <h3>{t('indicators.restated')}</h3>
      <div data-testid="indicator-revisions">
        <RevisionList definition={definition} items={items.slice(0, RESTATED_SHOWN)} />
        {rest.length > 0 && (
          <details class="more">
            <summary>{t('indicators.restated_more', { count: rest.length })}</summary>
            <RevisionList definition={definition} items={rest} />
          </details>
        )}
      </div>
    </>
  );
}

function RevisionList({
  definition,
  items,
}: {
  definition: IndicatorDefinition;
  items: readonly IndicatorRevision[];
}) {
  return (
    <ul class="revisions">
      {items.map((one) => {
        const { value, unit, coverage } = before(definition, one);
        const was =
          value === null
            ? t('indicators.missing.no_data')
            : say(value, unit, { rounding: unit === 'fraction' ? 'down' : 'near' });
        return (
          <li key={`${one.area}|${one.day}|${one.revision}`}>
            <strong>
              {formatDay(one.day, language.value)} · {areaName(one.area)}
            </strong>{' '}
            {t('indicators.restated_one', {
              at: exact(one.replaced_at),
              before:
                coverage === null
                  ? was
                  : t('indicators.with_coverage', { value: was, coverage: coverageText(coverage) }),
              reason: named(`indicators.restated_for.${one.reason}`, one.reason),
            })}
          </li>
        );
      })}
    </ul>
  );
}

function Pending({ asked: { error, again } }: { asked: Asked<unknown> }) {
  return error ? <Failure error={error} onRetry={again} /> : <Loading rows={2} />;
}
