// SPDX-License-Identifier: Apache-2.0
/** Open alerts of one tab: live, sorted, still under the pointer, driven by keys. */
import { useEffect, useRef, useState } from 'preact/hooks';
import type { Alert } from '../../api/types';
import { t } from '../../i18n';
import { link } from '../../live/store';
import { usePlace } from '../../navigation';
import { me } from '../../session';
import { useShortcuts } from '../../ui/keys';
import { Empty } from '../../ui/states';
import { type Sort, SortHeader } from '../../ui/table';
import { Age } from '../../ui/time';
import { arrange, type Filter, matches, type OpenTab, sorted, tabOf } from './arrange';
import { LastAlert } from './last';
import { mayAcknowledge } from './rights';
import { Row } from './row';

interface Props {
  readonly tab: OpenTab;
  readonly filter: Filter;
  readonly alerts: ReadonlyMap<string, Alert>;
  readonly opened: string | null;
  readonly onOpen: (alert: Alert) => void;
  readonly onAcknowledge: (alert: Alert) => void;
}

/** More rows are drawn on demand; nobody works through more than this at a glance. */
const ROWS = 200;

export function OpenList({ tab, filter, alerts, opened, onOpen, onAcknowledge }: Props) {
  const place = usePlace();
  const [sort, setSort] = useState<Sort | null>(null);
  const [pointed, setPointed] = useState(false);
  const [focused, setFocused] = useState(false);
  const [rows, setRows] = useState(ROWS);
  const list = useRef<HTMLDivElement>(null);
  const order = useRef<readonly string[]>([]);
  // An alert that is acknowledged and cleared leaves the live picture, but not a row held still.
  const lastSeen = useRef(new Map<string, Alert>());

  for (const [id, alert] of alerts) lastSeen.current.set(id, alert);
  const here = [...alerts.values()].filter((alert) => tabOf(alert) === tab);
  const wanted = sorted(
    here.filter((alert) => matches(alert, filter)),
    sort,
  ).map((alert) => alert.id);
  const { shown, waiting } = arrange(order.current, wanted, pointed || focused || opened !== null);
  order.current = shown;

  const release = (): void => {
    order.current = [];
    setPointed(false);
    setFocused(false);
    list.current?.querySelector<HTMLElement>('.scroll-top')?.scrollIntoView({ block: 'nearest' });
  };

  const visible = shown.slice(0, rows);
  const find = (id: string): Alert | undefined =>
    alerts.get(id) ?? closed(lastSeen.current.get(id));

  /** The row with the focus is the row the keys speak of; while the drawer is open, its alert is. */
  const current = (): number => {
    const row = document.activeElement?.closest<HTMLElement>('[data-alert-id]');
    return visible.indexOf(row?.dataset.alertId ?? opened ?? '');
  };
  const focusRow = (index: number): boolean => {
    const id = visible[Math.max(0, Math.min(visible.length - 1, index))];
    const alert = id === undefined ? undefined : find(id);
    if (!alert) return false;
    const row = list.current?.querySelector<HTMLElement>(
      `[data-alert-id="${CSS.escape(alert.id)}"]`,
    );
    row?.scrollIntoView({ block: 'nearest' });
    if (opened !== null) onOpen(alert);
    else row?.querySelector<HTMLElement>('.row-title')?.focus();
    return true;
  };
  const act = (what: (alert: Alert) => void): boolean => {
    const id = visible[current()];
    const alert = id === undefined ? undefined : find(id);
    if (alert) what(alert);
    return alert !== undefined;
  };
  const next = () => focusRow(current() + 1);
  const previous = () => focusRow(current() === -1 ? 0 : current() - 1);
  useShortcuts({
    j: next,
    k: previous,
    ArrowDown: next,
    ArrowUp: previous,
    a: () =>
      act((alert) => {
        if (!alert.acknowledged && mayAcknowledge(me.value?.role ?? '', alert.rule)) {
          onAcknowledge(alert);
        }
      }),
  });

  // After an action the acted row is still there; focus returns to it by the dialog itself.
  useEffect(() => {
    if (pointed && !list.current?.matches(':hover')) setPointed(false);
  });

  if (shown.length === 0) {
    const filtered = here.length > 0 || filter.severity !== null || filter.kind !== null;
    return (
      <Empty
        title={t(filtered ? 'alerts.empty_filtered' : `alerts.empty.${tab}`)}
        filtered={filtered}
      >
        {filtered ? (
          <a class="button" href={place.with({ severity: null, kind: null })}>
            {t('action.clear_filter')}
          </a>
        ) : (
          <>
            <LastAlert area={place.area} />
            {link.value.heardAt !== null && (
              <p class="muted" data-testid="last-message">
                {t('alerts.last_message')}{' '}
                <Age at={new Date(link.value.dataAt ?? 0).toISOString()} ago />
              </p>
            )}
          </>
        )}
      </Empty>
    );
  }

  return (
    <div
      ref={list}
      onPointerEnter={(event) => setPointed(event.pointerType === 'mouse')}
      onPointerLeave={() => setPointed(false)}
      onFocusIn={() => setFocused(true)}
      onFocusOut={(event) => {
        if (!list.current?.contains(event.relatedTarget as Node | null)) setFocused(false);
      }}
    >
      <span class="scroll-top" />
      {/* No height of its own: what tells of new rows must not shift the old ones. */}
      <div class="new-anchor">
        {waiting.length > 0 && (
          <button type="button" class="new-bar" data-testid="new-alerts" onClick={release}>
            {t('alerts.new', { count: waiting.length })} · {t('action.show')}
          </button>
        )}
      </div>
      <table class="table alert-table" aria-label={t(`alerts.tab.${tab}`)}>
        <thead>
          <tr>
            <SortHeader
              by="severity"
              label={t('alerts.severity')}
              sort={sort}
              onSort={(by) => {
                release();
                setSort(by);
              }}
            />
            <th scope="col">{t('alerts.alert')}</th>
            <th scope="col">{t('alerts.place')}</th>
            <SortHeader
              by="raised_at"
              label={t('alerts.raised')}
              numeric
              sort={sort}
              onSort={(by) => {
                release();
                setSort(by);
              }}
            />
            <th scope="col" class="num">
              {t(tab === 'recovered' ? 'alerts.age' : 'alerts.since')}
            </th>
            <th scope="col">
              <span class="visually-hidden">{t('alerts.actions')}</span>
            </th>
          </tr>
        </thead>
        <tbody>
          {visible.map((id) => {
            const alert = find(id);
            return (
              alert && (
                <Row
                  key={id}
                  alert={alert}
                  moved={tabOf(alert) === tab ? null : tabOf(alert)}
                  opened={id === opened}
                  onOpen={onOpen}
                  onAcknowledge={onAcknowledge}
                />
              )
            );
          })}
        </tbody>
      </table>
      {shown.length > rows && (
        <p class="panel-foot">
          <button type="button" class="button" onClick={() => setRows(rows + ROWS)}>
            {t('alerts.show_more', { count: shown.length - rows })}
          </button>
        </p>
      )}
    </div>
  );
}

/** Gone from the desk means closed, or put aside: history tells of both. */
function closed(alert: Alert | undefined): Alert | undefined {
  return alert && { ...alert, active: false, acknowledged: true, latched: false };
}
