// SPDX-License-Identifier: Apache-2.0
import type { Alert, Aside } from '../../api/types';
import { formatDateTime } from '../../format';
import { t } from '../../i18n';
import { now } from '../../live/store';
import { usePlace } from '../../navigation';
import { me } from '../../session';
import { Icon, kindIcon, SeverityMark } from '../../ui/icons';
import { Age, clock, When } from '../../ui/time';
import { alertDetail, alertTitle, causeName, placeName, subjectName } from '../../ui/words';
import type { Tab } from './arrange';
import { mayAcknowledge } from './rights';

interface Props {
  readonly alert: Alert;
  /** Set where the alert has meanwhile gone to another tab, but the row is held still. */
  readonly moved: Tab | null;
  readonly opened: boolean;
  readonly onOpen: (alert: Alert) => void;
  readonly onAcknowledge?: (alert: Alert) => void;
}

export function Row({ alert, moved, opened, onOpen, onAcknowledge }: Props) {
  const detail = alertDetail(alert);
  const place = usePlace();
  const subject = subjectName(alert);
  return (
    <tr
      class={`alert-row edge-${alert.severity}${moved ? ' moved' : ''}${opened ? ' opened' : ''}`}
      data-testid="alert-row"
      data-alert-id={alert.id}
      data-rule={alert.rule}
      data-severity={alert.severity}
      data-subject={alert.subject}
      data-active={alert.active}
      data-acknowledged={alert.acknowledged}
      aria-current={opened ? 'true' : undefined}
      onClick={(event) => {
        if (event.target instanceof Element && event.target.closest('button,a')) return;
        if (String(getSelection() ?? '') === '') onOpen(alert);
      }}
    >
      <td class="cell-severity">
        <span class={`with-mark severity-${alert.severity} strong`}>
          <SeverityMark severity={alert.severity} />
          {t(`severity.${alert.severity}`)}
        </span>
      </td>
      <td class="cell-title">
        <span class="line">
          <button
            type="button"
            class="row-title"
            data-testid="alert-title"
            onClick={() => onOpen(alert)}
          >
            {alertTitle(alert)}
          </button>
          <AlertState alert={alert} moved={moved} past={onAcknowledge === undefined} />
        </span>
        <span class="line muted" title={alert.note ?? undefined}>
          {detail}
          {detail && alert.note && ' · '}
          {alert.note &&
            t('alerts.note_by', { who: alert.acknowledged_by ?? '', note: alert.note })}
        </span>
      </td>
      <td class="cell-place">
        <span class="line with-mark">
          <Icon name={kindIcon(alert.kind ?? '')} size={16} />
          {subject}
        </span>
        <span class="line muted">{placeName(alert.area, place.area)}</span>
      </td>
      <td class="cell-time num" data-label={t('alerts.raised')}>
        <When at={alert.raised_at} />
      </td>
      <td class="cell-age num" data-label={t('alerts.since')}>
        <Age at={alert.raised_at} />
      </td>
      <td class="cell-action">
        {!alert.acknowledged &&
          onAcknowledge &&
          mayAcknowledge(me.value?.role ?? '', alert.rule) && (
            <button
              type="button"
              class="button small"
              data-testid="ack-button"
              aria-label={t('alerts.acknowledge_one', { title: alertTitle(alert), subject })}
              onClick={() => onAcknowledge(alert)}
            >
              <Icon name="check" size={14} />
              {t('alerts.acknowledge')}
            </button>
          )}
      </td>
    </tr>
  );
}

const until = (aside: Aside): string => formatDateTime(aside.until, now.peek(), clock());

interface StateProps {
  readonly alert: Alert;
  readonly moved: Tab | null;
  /** Among past alerts the open ones are the exception that is told. */
  readonly past?: boolean;
}

/** Of an alert that has left its tab only that is told: the row keeps to its two lines. */
export function AlertState({ alert, moved, past = false }: StateProps) {
  if (moved) {
    return (
      <span class="chip small moved-chip">
        {t('alerts.moved', { tab: t(`alerts.tab.${moved}`) })}
      </span>
    );
  }
  return (
    <>
      {!alert.active && <span class="chip small">{t('alerts.step.cleared')}</span>}
      {past && alert.active && <span class="chip small">{t('alerts.step.active')}</span>}
      {alert.acknowledged && (
        <span class="chip small" data-testid="acknowledged-by">
          <Icon name="check" size={12} />
          {t('alerts.acknowledged_by', { who: alert.acknowledged_by ?? t('unit.none') })}
        </span>
      )}
      {alert.latched && <span class="chip small">{t('alerts.step.latched')}</span>}
      {alert.shelved && (
        <span class="chip small" title={alert.shelved.reason} data-testid="shelved">
          {t('alerts.step.shelved', { when: until(alert.shelved) })}
        </span>
      )}
      {alert.out_of_service && (
        <span class="chip small" title={alert.out_of_service.reason}>
          {t('alerts.step.out_of_service', { when: until(alert.out_of_service) })}
        </span>
      )}
      {alert.suppressed_by.length > 0 && (
        <span class="chip small" title={alert.suppressed_by.map(causeName).join(' · ')}>
          {t('alerts.step.suppressed')}
        </span>
      )}
      {alert.repeats > 0 && (
        <span class="chip small">{t('alerts.step.repeated', { times: alert.repeats })}</span>
      )}
      {alert.late && <span class="chip small">{t('alerts.late')}</span>}
    </>
  );
}
