// SPDX-License-Identifier: Apache-2.0
/** One alert in full: its facts, what the rule saw, its story, and what can be done. */
import { useEffect, useState } from 'preact/hooks';
import { ApiError, request } from '../../api/client';
import type { Alert, AlertDetail, Aside, TimelineEntry } from '../../api/types';
import { named, t } from '../../i18n';
import { learn, picture } from '../../live/store';
import { me } from '../../session';
import { Dialog } from '../../ui/dialog';
import { Icon, SeverityMark } from '../../ui/icons';
import { Failure, Loading } from '../../ui/states';
import { Age, exact, spanWords, When } from '../../ui/time';
import {
  alertDetail,
  alertTitle,
  causeName,
  kindName,
  placeName,
  subjectName,
} from '../../ui/words';
import { mayAcknowledge } from './rights';
import { AlertState } from './row';
import { seenValues } from './seen';

interface Props {
  readonly id: string;
  readonly onClose: () => void;
  readonly onAcknowledge: (alert: Alert) => void;
}

export function AlertDrawer({ id, onClose, onAcknowledge }: Props) {
  const [detail, setDetail] = useState<AlertDetail | null>(null);
  const [error, setError] = useState<ApiError | null>(null);
  const live = picture.value?.alerts.get(id);
  const version = live?.version ?? 0;

  useEffect(() => {
    const leaving = new AbortController();
    request<AlertDetail>('GET', `/alerts/${encodeURIComponent(id)}`, {
      signal: leaving.signal,
    }).then(
      (found) => {
        setError(null);
        setDetail(found);
        learn(found);
      },
      (reason: unknown) => {
        if (leaving.signal.aborted) return;
        if (!(reason instanceof ApiError)) throw reason;
        setError(reason);
      },
    );
    return () => leaving.abort();
  }, [id, version, live === undefined]);

  const fetched = detail?.id === id ? detail : null;
  const alert: Alert | null =
    live && (!fetched || live.version >= fetched.version) ? live : fetched;
  const allowed = alert !== null && mayAcknowledge(me.value?.role ?? '', alert.rule);
  return (
    <Dialog
      id="alert"
      drawer
      subject={id}
      testId="alert-drawer"
      onClose={onClose}
      title={
        alert ? (
          <>
            <span class={`with-mark severity-${alert.severity}`}>
              <SeverityMark severity={alert.severity} />
              {t(`severity.${alert.severity}`)}
            </span>{' '}
            {alertTitle(alert)}
          </>
        ) : (
          t('nav.alerts')
        )
      }
    >
      {error && !alert && <Failure error={error} />}
      {!alert && !error && <Loading />}
      {alert && (
        <>
          <div class="drawer-actions">
            {!alert.acknowledged && allowed && (
              <button
                type="button"
                class="button primary"
                data-testid="ack-button"
                onClick={() => onAcknowledge(alert)}
              >
                <Icon name="check" size={16} />
                {t('alerts.acknowledge')}
              </button>
            )}
            <span class="chip" data-testid="drawer-active">
              {t(alert.active ? 'alerts.step.active' : 'alerts.step.cleared')}
            </span>
            <AlertState alert={{ ...alert, active: true }} moved={null} />
            {!alert.acknowledged && !allowed && <span class="muted">{t('alerts.for_police')}</span>}
          </div>
          <Facts alert={alert} />
          <Seen alert={alert} />
          <h3>{t('alerts.timeline')}</h3>
          {fetched ? <Timeline items={fetched.timeline} alert={alert} /> : <Loading rows={2} />}
        </>
      )}
    </Dialog>
  );
}

function Facts({ alert }: { alert: Alert }) {
  const detail = alertDetail(alert);
  return (
    <>
      {detail && <p class="lead">{detail}</p>}
      <dl class="facts">
        <div>
          <dt>{t('alerts.subject')}</dt>
          <dd>
            {alert.kind ? `${kindName(alert.kind)} · ` : ''}
            {subjectName(alert)} <code class="muted small">{alert.subject}</code>
          </dd>
        </div>
        <div>
          <dt>{t('alerts.place')}</dt>
          <dd>{placeName(alert.area, '')}</dd>
        </div>
        {alert.gateway && (
          <div>
            <dt>{t('device.gateway')}</dt>
            <dd>
              <code>{alert.gateway}</code>
            </dd>
          </div>
        )}
        <div>
          <dt>{t('alerts.raised_at')}</dt>
          <dd>
            {exact(alert.raised_at)}{' '}
            <span class="muted small">
              (<Age at={alert.raised_at} ago />)
            </span>
          </dd>
        </div>
        <div>
          <dt>{t('alerts.received_at')}</dt>
          <dd>
            {exact(alert.received_at)}
            {alert.late && <span class="muted small block">{t('alerts.late_explained')}</span>}
          </dd>
        </div>
        {alert.repeats > 0 && (
          <div>
            <dt>{t('alerts.last_raised_at')}</dt>
            <dd>{exact(alert.last_raised_at)}</dd>
          </div>
        )}
        {alert.cleared_at && (
          <div>
            <dt>{t('alerts.cleared_at')}</dt>
            <dd>
              {exact(alert.cleared_at)}{' '}
              <span class="muted small">
                (
                {t('alerts.lasted', {
                  span: spanWords(Date.parse(alert.cleared_at) - Date.parse(alert.last_raised_at)),
                })}
                )
              </span>
            </dd>
          </div>
        )}
        {alert.acknowledged_at && (
          <div>
            <dt>{t('alerts.acknowledged_at')}</dt>
            <dd>
              {exact(alert.acknowledged_at)} · {alert.acknowledged_by}
              {alert.note && <span class="note block">{alert.note}</span>}
            </dd>
          </div>
        )}
        {alert.shelved && <Put what={t('alerts.shelved')} aside={alert.shelved} />}
        {alert.out_of_service && (
          <Put what={t('alerts.out_of_service')} aside={alert.out_of_service} />
        )}
        {alert.suppressed_by.length > 0 && (
          <div>
            <dt>{t('alerts.suppressed')}</dt>
            <dd>{alert.suppressed_by.map(causeName).join(' · ')}</dd>
          </div>
        )}
      </dl>
    </>
  );
}

/** By whom, why and until when: what is put aside without that is forgotten. */
function Put({ what, aside }: { what: string; aside: Aside }) {
  return (
    <div>
      <dt>{what}</dt>
      <dd>
        {t('alerts.until', { when: exact(aside.until) })} · {actorName(aside.by)}
        <span class="note block">{written(aside.by, aside.reason)}</span>
      </dd>
    </div>
  );
}

function Seen({ alert }: { alert: Alert }) {
  return (
    <>
      <h3>{t('alerts.seen')}</h3>
      <dl class="facts">
        <div>
          <dt>{t('alerts.rule')}</dt>
          <dd>
            {named(`rule.${alert.rule}.about`, alertTitle(alert))}{' '}
            <code class="muted small">{alert.rule}</code>
          </dd>
        </div>
        {seenValues(alert).map(({ name, label, word }) => (
          <div key={name}>
            <dt>{label}</dt>
            <dd>{word}</dd>
          </div>
        ))}
      </dl>
    </>
  );
}

/** Reasons that the action itself, its note or its cause tell already. */
const SAID = new Set(['person_noted', 'put_aside', 'cause']);

function Timeline({ items, alert }: { items: readonly TimelineEntry[]; alert: Alert }) {
  return (
    <ol class="timeline" data-testid="timeline">
      {items.map((entry, index) => (
        <li key={`${entry.at}${entry.action}${index}`} data-action={entry.action}>
          <span class="timeline-what">
            <strong>{named(`timeline.${entry.action}`, entry.action)}</strong>
            <span class="muted"> · {actorName(entry.actor)}</span>
          </span>
          <span class="timeline-when">
            <When at={entry.at} />
            {entry.at > alert.raised_at && (
              <span class="muted small">
                {' '}
                {t('alerts.after', {
                  span: spanWords(Date.parse(entry.at) - Date.parse(alert.raised_at)),
                })}
              </span>
            )}
          </span>
          {entry.lasted_s !== null && (
            <span class="muted block">
              {t('alerts.lasted', { span: spanWords(entry.lasted_s * 1000) })}
            </span>
          )}
          {entry.reason && !SAID.has(entry.reason) && (
            <span class="muted block">{named(`reason.${entry.reason}`, entry.reason)}</span>
          )}
          {typeof entry.params.until === 'string' && (
            <span class="muted block">
              {t('alerts.until', { when: exact(entry.params.until) })}
            </span>
          )}
          {typeof entry.params.cause === 'string' && (
            <span class="muted block">{causeName(entry.params.cause)}</span>
          )}
          {entry.note && <span class="note block">{written(entry.actor, entry.note)}</span>}
        </li>
      ))}
    </ol>
  );
}

/** People write sentences; what shelves a nuisance by itself gives a code. */
function written(by: string | null, text: string): string {
  return by === 'hygiene' ? named(`reason.${text}`, text) : text;
}

function actorName(actor: string | null): string {
  return actor === null ? t('actor.system') : named(`actor.${actor.split(':')[0]}`, actor);
}
