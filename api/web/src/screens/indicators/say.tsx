// SPDX-License-Identifier: Apache-2.0
/** Indicators in words of the language in use. */
import type {
  Indicator,
  IndicatorDefinition,
  IndicatorSeries,
  IndicatorTarget,
  IndicatorUnit,
} from '../../api/types';
import { language, t } from '../../i18n';
import { figure, plainFigure, type Rounding } from './figures';
import { missing } from './missing';

export function say(
  value: number,
  unit: IndicatorUnit,
  options: { readonly rounding?: Rounding; readonly target?: number | null } = {},
): string {
  const { text, unit: shown } = figure(value, unit, language.value, options);
  return t(`indicators.unit.${shown}`, { n: text });
}

export function text(texts: Readonly<Record<string, string>>, fallback: string): string {
  return texts[language.value] ?? fallback;
}

export function nameOfIndicator({ name, indicator }: IndicatorDefinition): string {
  return text(name, indicator);
}

/** A share is rounded down, as everywhere on the console; other numbers to the nearest. */
export function valueText(definition: IndicatorDefinition, item: Indicator): string {
  const rounding = definition.shape === 'share' ? 'down' : 'near';
  return say(item.value ?? 0, definition.unit, { rounding, target: item.target });
}

export function Value({
  definition,
  item,
  absent = null,
}: {
  definition: IndicatorDefinition;
  item: Indicator | null | undefined;
  absent?: IndicatorSeries['absent'];
}) {
  const why = absent ?? missing(definition, item);
  if (why !== null || !item) {
    return (
      <span class="no-value" data-testid="indicator-missing" data-why={why}>
        {t(`indicators.missing.${why ?? 'no_data'}`)}
      </span>
    );
  }
  return <strong data-testid="indicator-value">{valueText(definition, item)}</strong>;
}

/** What the number lies between; null where it has no bounds. */
export function boundsText({ unit }: IndicatorDefinition, item: Indicator): string | null {
  const { lower, upper, target } = item;
  if (lower === null) return null;
  const low = say(lower, unit, { rounding: 'down', target });
  return upper === null
    ? t('indicators.or_more', { lower: low })
    : t('indicators.between', { lower: low, upper: say(upper, unit, { rounding: 'up', target }) });
}

export function plain(value: number, unit: IndicatorUnit): string {
  const { text: n, unit: shown } = plainFigure(value, unit, language.value);
  return t(`indicators.unit.${shown}`, { n });
}

export function limitText({ unit }: IndicatorDefinition, { value, better }: IndicatorTarget) {
  return `${better === 'high' ? '≥' : '≤'} ${plain(value, unit)}`;
}

export function coverageText(coverage: number | null): string {
  return coverage === null ? t('unit.none') : say(coverage, 'fraction', { rounding: 'down' });
}
