// SPDX-License-Identifier: Apache-2.0
/** The states of a page that has nothing to show yet, or no longer anything current. */
import type { ComponentChildren } from 'preact';
import type { ApiError } from '../api/client';
import { formatSeconds } from '../format';
import { named, t } from '../i18n';
import { fresh, link } from '../live/store';
import { clock } from './time';

export function Loading({ rows = 4 }: { rows?: number }) {
  return (
    <div class="skeleton" aria-busy="true" data-testid="state-loading">
      <span class="visually-hidden">{t('state.loading')}</span>
      {Array.from({ length: rows }, (_, index) => (
        <div class="skeleton-row" key={index} />
      ))}
    </div>
  );
}

interface EmptyProps {
  readonly title: string;
  readonly filtered?: boolean;
  /** Where nothing else on the page is its heading. */
  readonly heading?: boolean;
  readonly children?: ComponentChildren;
}

export function Empty({ title, filtered = false, heading = false, children }: EmptyProps) {
  return (
    <div class="empty" data-testid={filtered ? 'state-filtered' : 'state-empty'}>
      {heading ? <h1 class="empty-title">{title}</h1> : <p class="empty-title">{title}</p>}
      {children}
    </div>
  );
}

/** `title` comes from the server in the person's language; network failures have only a code. */
export function problemTitle(error: ApiError): string {
  return named(`problem.${error.code}`, error.problem.title ?? t('problem.unknown'));
}

export function Failure({ error, onRetry }: { error: ApiError; onRetry?: () => void }) {
  return (
    <div class="empty failure" role="alert" data-testid="state-error">
      <p class="empty-title">{problemTitle(error)}</p>
      {error.problem.detail && <p>{error.problem.detail}</p>}
      <p class="muted">
        <code>{error.code}</code>
        {error.requestId && (
          <>
            {' · '}
            {t('problem.request')} <code class="copyable">{error.requestId}</code>
          </>
        )}
      </p>
      {onRetry && (
        <button type="button" class="button" onClick={onRetry}>
          {t('action.retry')}
        </button>
      )}
    </div>
  );
}

/** Never silently old. */
export function StaleBanner() {
  if (fresh.value !== 'stale') return null;
  const { dataAt } = link.value;
  return (
    <div class="stale-banner" role="status" data-testid="stale-banner">
      {dataAt === null
        ? t('live.never')
        : t('live.stale', { time: formatSeconds(dataAt, clock()) })}
    </div>
  );
}
