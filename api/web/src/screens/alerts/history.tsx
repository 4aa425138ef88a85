// SPDX-License-Identifier: Apache-2.0
/** Past alerts: the only tab with a range of time, both ends given as days of the area. */
import { useEffect, useState } from 'preact/hooks';
import { ApiError, query, request } from '../../api/client';
import type { Alert, Page } from '../../api/types';
import { addDays, dayOf, startOfDay } from '../../format';
import { t } from '../../i18n';
import { now } from '../../live/store';
import { usePlace } from '../../navigation';
import { Empty, Failure, Loading } from '../../ui/states';
import { zone } from '../../ui/time';
import type { Filter } from './arrange';
import { Row } from './row';

interface Props {
  readonly area: string;
  readonly filter: Filter;
  readonly opened: string | null;
  readonly onOpen: (alert: Alert) => void;
}

const PAGE = 100;
const DAYS = 7;
const DAY = /^\d{4}-\d{2}-\d{2}$/;

export function History({ area, filter, opened, onOpen }: Props) {
  const place = usePlace();
  const today = dayOf(new Date(now.peek()), zone.value);
  const given = (name: string, otherwise: string): string => {
    const day = place.query[name];
    return day !== undefined && DAY.test(day) ? day : otherwise;
  };
  const to = given('to', today);
  const from = given('from', addDays(to, 1 - DAYS));
  const [items, setItems] = useState<readonly Alert[] | null>(null);
  const [cursor, setCursor] = useState<string | null>(null);
  const [error, setError] = useState<ApiError | null>(null);
  const { severity, kind } = filter;

  const fetchPage = (after: string | null, signal?: AbortSignal): void => {
    const path = `/alerts${query({
      area,
      status: 'history',
      severity,
      from: startOfDay(from, zone.value).toISOString(),
      // Half open: the last day is included whole.
      to: startOfDay(addDays(to, 1), zone.value).toISOString(),
      limit: PAGE,
      cursor: after,
    })}`;
    request<Page<Alert>>('GET', path, signal ? { signal } : {}).then(
      (page) => {
        setError(null);
        setItems((before) => [...(after === null ? [] : (before ?? [])), ...page.items]);
        setCursor(page.next_cursor);
      },
      (reason: unknown) => {
        if (signal?.aborted) return;
        if (!(reason instanceof ApiError)) throw reason;
        setError(reason);
      },
    );
  };

  useEffect(() => {
    const leaving = new AbortController();
    setItems(null);
    setError(null);
    fetchPage(null, leaving.signal);
    return () => leaving.abort();
  }, [area, from, to, severity, zone.value]);

  const shown = items?.filter((alert) => kind === null || alert.kind === kind) ?? null;
  const filtered = severity !== null || kind !== null;
  return (
    <div>
      <div class="range">
        <label>
          {t('alerts.from')}{' '}
          <input
            type="date"
            value={from}
            max={to}
            data-testid="history-from"
            onChange={(event) => place.go(place.with({ from: event.currentTarget.value || null }))}
          />
        </label>
        <label>
          {t('alerts.to')}{' '}
          <input
            type="date"
            value={to}
            min={from}
            max={today}
            data-testid="history-to"
            onChange={(event) => place.go(place.with({ to: event.currentTarget.value || null }))}
          />
        </label>
        <span class="muted small">{zone.value}</span>
      </div>
      {error && <Failure error={error} onRetry={() => fetchPage(cursor)} />}
      {!shown && !error && <Loading rows={8} />}
      {shown?.length === 0 && (
        <Empty
          title={t(filtered ? 'alerts.empty_filtered' : 'alerts.empty.history')}
          filtered={filtered}
        >
          {filtered && (
            <a class="button" href={place.with({ severity: null, kind: null })}>
              {t('action.clear_filter')}
            </a>
          )}
        </Empty>
      )}
      {shown && shown.length > 0 && (
        <table class="table alert-table" aria-label={t('alerts.tab.history')}>
          <thead>
            <tr>
              <th scope="col">{t('alerts.severity')}</th>
              <th scope="col">{t('alerts.alert')}</th>
              <th scope="col">{t('alerts.place')}</th>
              <th scope="col" class="num">
                {t('alerts.raised')}
              </th>
              <th scope="col" class="num">
                {t('alerts.age')}
              </th>
              <th scope="col">
                <span class="visually-hidden">{t('alerts.actions')}</span>
              </th>
            </tr>
          </thead>
          <tbody>
            {shown.map((alert) => (
              <Row
                key={alert.id}
                alert={alert}
                moved={null}
                opened={alert.id === opened}
                onOpen={onOpen}
              />
            ))}
          </tbody>
        </table>
      )}
      {cursor !== null && (
        <p class="panel-foot">
          <button type="button" class="button" onClick={() => fetchPage(cursor)}>
            {t('action.more')}
          </button>
        </p>
      )}
    </div>
  );
}
