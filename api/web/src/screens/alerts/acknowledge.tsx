// SPDX-License-Identifier: Apache-2.0
/** Acknowledging, so that of two people doing it at once the second learns who was first. */
import { useState } from 'preact/hooks';
import { ApiError, request } from '../../api/client';
import type { Alert } from '../../api/types';
import { formatSeconds } from '../../format';
import { t } from '../../i18n';
import { learn, picture } from '../../live/store';
import { say } from '../../ui/announce';
import { Dialog } from '../../ui/dialog';
import { SeverityMark } from '../../ui/icons';
import { problemTitle } from '../../ui/states';
import { clock } from '../../ui/time';
import { alertTitle, placeName, subjectName } from '../../ui/words';

const NOTE_MAX = 2000;

type Outcome =
  | { readonly what: 'taken'; readonly who: string; readonly at: string }
  | { readonly what: 'changed' }
  | { readonly what: 'failed'; readonly why: string };

export function Acknowledge({ alert, onClose }: { alert: Alert; onClose: () => void }) {
  const [seen, setSeen] = useState(alert);
  const [busy, setBusy] = useState(false);
  const [outcome, setOutcome] = useState<Outcome | null>(null);
  const path = `/alerts/${encodeURIComponent(alert.id)}`;
  const now = picture.value?.alerts.get(alert.id);

  const submit = async (event: SubmitEvent): Promise<void> => {
    event.preventDefault();
    const note = String(new FormData(event.currentTarget as HTMLFormElement).get('note')).trim();
    setBusy(true);
    setOutcome(null);
    try {
      const changed = await request<Alert>('POST', `${path}/acknowledge`, {
        body: note === '' ? {} : { note },
        headers: { 'If-Match': `"${seen.version}"` },
      });
      learn(changed);
      say(t('alerts.acknowledged_done', { title: alertTitle(alert) }));
      onClose();
      return;
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      setOutcome(
        error.status === 409 || error.status === 412
          ? await whoWasFirst()
          : { what: 'failed', why: problemTitle(error) },
      );
    }
    setBusy(false);
  };

  /** The list may not know yet what the server knows: ask it. */
  const whoWasFirst = async (): Promise<Outcome> => {
    try {
      const present = await request<Alert>('GET', path);
      learn(present);
      setSeen(present);
      return present.acknowledged
        ? {
            what: 'taken',
            who: present.acknowledged_by ?? t('unit.none'),
            at: present.acknowledged_at ?? present.received_at,
          }
        : { what: 'changed' };
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      return { what: 'failed', why: problemTitle(error) };
    }
  };

  const taken = outcome?.what === 'taken';
  return (
    <Dialog id="ack" title={t('alerts.acknowledge_title')} onClose={onClose} testId="ack-dialog">
      <p class="ack-subject">
        <span class={`with-mark severity-${alert.severity} strong`}>
          <SeverityMark severity={alert.severity} />
          {t(`severity.${alert.severity}`)}
        </span>{' '}
        <strong>{alertTitle(alert)}</strong>
        <span class="muted block">
          {placeName(alert.area, '')} · {subjectName(alert)}
        </span>
      </p>
      <form onSubmit={submit}>
        <label class="field">
          <span>
            {t('alerts.note')} <span class="muted">{t('alerts.note_optional')}</span>
          </span>
          <textarea
            name="note"
            rows={3}
            maxLength={NOTE_MAX}
            disabled={taken}
            data-autofocus
            data-testid="ack-note"
          />
        </label>
        <div role="alert" data-testid="ack-outcome" data-outcome={outcome?.what}>
          {outcome?.what === 'taken' && (
            <p class="form-notice">
              {t('alerts.taken', { who: outcome.who, when: formatSeconds(outcome.at, clock()) })}
            </p>
          )}
          {outcome?.what === 'changed' && (
            <p class="form-notice">{t('alerts.changed_meanwhile')}</p>
          )}
          {outcome?.what === 'failed' && <p class="form-error">{outcome.why}</p>}
        </div>
        {!outcome && now?.acknowledged && now.acknowledged_by && (
          <p class="form-notice">
            {t('alerts.taken', {
              who: now.acknowledged_by,
              when: formatSeconds(now.acknowledged_at ?? now.received_at, clock()),
            })}
          </p>
        )}
        <div class="dialog-actions">
          <button type="button" class="button" onClick={onClose}>
            {t(taken ? 'action.close' : 'action.cancel')}
          </button>
          {!taken && (
            <button type="submit" class="button primary" disabled={busy} data-testid="ack-confirm">
              {busy ? t('alerts.acknowledging') : t('alerts.acknowledge_confirm')}
            </button>
          )}
        </div>
      </form>
    </Dialog>
  );
}
