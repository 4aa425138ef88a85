// SPDX-License-Identifier: Apache-2.0
import type { Indicator, IndicatorDefinition, IndicatorSeries } from '../../api/types';
import { t } from '../../i18n';
import { VerdictChip } from '../../ui/verdict';
import { BoundsBar } from './bar';
import { missing } from './missing';
import { boundsText, coverageText, limitText, nameOfIndicator, say, text, Value } from './say';

interface Props {
  readonly series: IndicatorSeries;
  readonly onOpen: () => void;
}

export function IndicatorRow({ series: { definition, items, absent }, onOpen }: Props) {
  const item = items.find(({ kind }) => kind === '');
  const { target } = definition;
  // On a narrow screen, where rows are cards, a dash is not worth a line.
  const bounded = hasBounds(definition, item);
  const untargeted = target ? '' : 'card-hidden';
  return (
    <tr data-testid="indicator-row" data-indicator={definition.indicator}>
      <th scope="row">
        <button
          type="button"
          class="link indicator-name"
          aria-haspopup="dialog"
          data-testid="indicator-open"
          onClick={onOpen}
        >
          {nameOfIndicator(definition)}
        </button>
        {item && <Standing item={item} />}
      </th>
      <td class="num value-cell" data-label={t('indicators.value')}>
        <Value definition={definition} item={item} absent={absent ?? null} />
        {item && <Tail definition={definition} item={item} />}
      </td>
      <td class={bounded ? 'card-wide' : 'card-hidden'} data-label={t('lighting.range')}>
        <Bounds definition={definition} item={item} />
      </td>
      <td
        class={(item?.coverage ?? null) === null ? 'num card-hidden' : 'num'}
        data-label={t('lighting.coverage')}
      >
        {coverageText(item?.coverage ?? null)}
      </td>
      <td class={untargeted} data-label={t('indicators.target')}>
        {target ? (
          <>
            {limitText(definition, target)}{' '}
            <span class="muted small" title={text(target.source_name, target.source)}>
              {target.source}
            </span>
          </>
        ) : (
          <span class="muted">{t('indicators.no_target')}</span>
        )}
      </td>
      <td class={`verdict-cell ${untargeted}`} data-label={t('lighting.verdict')}>
        {target ? (
          <VerdictChip verdict={item?.verdict ?? 'undetermined'} />
        ) : (
          <span class="muted">{t('unit.none')}</span>
        )}
      </td>
    </tr>
  );
}

/** Whether the number may still change, and whether it did. */
export function Standing({ item }: { item: Indicator }) {
  return (
    <span class="standing muted small" data-testid="indicator-status" data-status={item.status}>
      {t(`indicators.status.${item.status}`)}
      {item.revision > 1 && ` · ${t('indicators.revision', { n: item.revision })}`}
    </span>
  );
}

/** Of times: what nine of ten did not exceed. */
function Tail({ definition, item }: { definition: IndicatorDefinition; item: Indicator }) {
  if (item.p90 === null) return null;
  return (
    <span class="muted small block">
      {t('indicators.p90', { value: say(item.p90, definition.unit) })}
    </span>
  );
}

/** Between 0 and 100 %, where nothing is known, says nothing. */
export function hasBounds(definition: IndicatorDefinition, item: Indicator | undefined): boolean {
  const why = missing(definition, item);
  return (why === null || why === 'unfinished') && (item?.lower ?? null) !== null;
}

export function Bounds({
  definition,
  item,
}: {
  definition: IndicatorDefinition;
  item: Indicator | undefined;
}) {
  if (!item || !hasBounds(definition, item)) return <span class="muted">{t('unit.none')}</span>;
  return (
    <>
      <span class="bounds-words">{boundsText(definition, item)}</span>
      <BoundsBar item={item} unit={definition.unit} />
    </>
  );
}
