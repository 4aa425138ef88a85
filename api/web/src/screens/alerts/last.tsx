// SPDX-License-Identifier: Apache-2.0
/** An empty list is believable when it says what was there last. */
import { useEffect, useState } from 'preact/hooks';
import { ApiError, query, request } from '../../api/client';
import type { Alert, Page } from '../../api/types';
import { formatDateTime } from '../../format';
import { t } from '../../i18n';
import { now } from '../../live/store';
import { clock } from '../../ui/time';
import { alertTitle, subjectName } from '../../ui/words';

export function LastAlert({ area }: { area: string }) {
  const [last, setLast] = useState<Alert | null | undefined>(undefined);
  useEffect(() => {
    const leaving = new AbortController();
    const path = `/alerts${query({ area, status: 'history', limit: 1 })}`;
    request<Page<Alert>>('GET', path, { signal: leaving.signal }).then(
      (page) => setLast(page.items[0] ?? null),
      (reason: unknown) => {
        // The sentence is an extra; without an answer the list is as empty as before.
        if (!leaving.signal.aborted && !(reason instanceof ApiError)) throw reason;
      },
    );
    return () => leaving.abort();
  }, [area]);
  if (last === undefined) return null;
  if (last === null) return <p class="muted">{t('alerts.never')}</p>;
  return (
    <p class="muted" data-testid="last-alert">
      {t('alerts.last', {
        when: formatDateTime(last.raised_at, now.peek(), clock()),
        subject: subjectName(last),
        title: alertTitle(last),
        state: t(
          last.active
            ? 'alerts.step.active'
            : last.acknowledged
              ? 'alerts.step.closed'
              : 'alerts.step.cleared',
        ),
      })}
    </p>
  );
}
