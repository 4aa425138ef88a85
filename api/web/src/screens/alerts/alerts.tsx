// SPDX-License-Identifier: Apache-2.0
/** Alert console: what is new, what is being handled, what recovered by itself. */
import { useEffect, useRef, useState } from 'preact/hooks';
import { type Alert, SEVERITIES, type Severity } from '../../api/types';
import { t } from '../../i18n';
import { failure, fresh, picture, retry } from '../../live/store';
import { usePlace } from '../../navigation';
import { SeverityMark } from '../../ui/icons';
import { Failure, Loading } from '../../ui/states';
import { kindName } from '../../ui/words';
import { Acknowledge } from './acknowledge';
import { asTab, counts, TABS } from './arrange';
import { AlertDrawer } from './drawer';
import { History } from './history';
import { OpenList } from './open-list';

export default function AlertsScreen() {
  const place = usePlace();
  const [acknowledging, setAcknowledging] = useState<Alert | null>(null);
  const tab = asTab(place.query.tab);
  const tabs = useRef<HTMLElement>(null);
  useEffect(() => {
    // On a narrow screen the tabs scroll sideways; `tab` is the reason to look again.
    if (tab) {
      const current = tabs.current?.querySelector('[aria-current]');
      current?.scrollIntoView({ block: 'nearest', inline: 'nearest' });
    }
  }, [tab]);
  const filter = {
    severity: SEVERITIES.find((one) => one === place.query.severity) ?? null,
    kind: place.query.kind ?? null,
  };
  const opened = place.query.alert ?? null;
  const shown = picture.value;
  const open = (alert: Alert): void => place.go(place.with({ alert: alert.id }), opened !== null);
  const close = (): void => place.go(place.with({ alert: null }), true);
  const number = shown ? counts(shown.alerts.values()) : null;
  const kinds = shown ? shown.overview.kinds.map(({ kind }) => kind) : [];

  return (
    <div class={opened ? 'alerts with-drawer' : 'alerts'} data-stale={fresh.value === 'stale'}>
      <header class="screen-head">
        <h1>{t('nav.alerts')}</h1>
        <nav class="tabs" ref={tabs} aria-label={t('alerts.tabs')}>
          {TABS.map((one) => (
            <a
              key={one}
              href={place.with({ tab: one === 'unacknowledged' ? null : one, alert: null })}
              aria-current={one === tab ? 'page' : undefined}
              data-testid={`tab-${one}`}
            >
              {t(`alerts.tab.${one}`)}
              {one !== 'history' && number && (
                <span class="tab-count" data-testid={`tab-count-${one}`}>
                  {number[one]}
                </span>
              )}
            </a>
          ))}
        </nav>
        <Filters severity={filter.severity} kind={filter.kind} kinds={kinds} />
      </header>
      <div class="alerts-body">
        <div class="alerts-list">
          {!shown && failure.value && <Failure error={failure.value} onRetry={retry} />}
          {!shown && !failure.value && <Loading rows={8} />}
          {shown && tab === 'history' && (
            <History area={place.area} filter={filter} opened={opened} onOpen={open} />
          )}
          {shown && tab !== 'history' && (
            <OpenList
              key={`${place.area}|${tab}|${filter.severity}|${filter.kind}`}
              tab={tab}
              filter={filter}
              alerts={shown.alerts}
              opened={opened}
              onOpen={open}
              onAcknowledge={setAcknowledging}
            />
          )}
        </div>
        {opened !== null && (
          <AlertDrawer id={opened} onClose={close} onAcknowledge={setAcknowledging} />
        )}
      </div>
      {acknowledging && (
        <Acknowledge alert={acknowledging} onClose={() => setAcknowledging(null)} />
      )}
    </div>
  );
}

interface FiltersProps {
  readonly severity: Severity | null;
  readonly kind: string | null;
  readonly kinds: readonly string[];
}

function Filters({ severity, kind, kinds }: FiltersProps) {
  const place = usePlace();
  const listed = kind !== null && !kinds.includes(kind) ? [...kinds, kind] : kinds;
  return (
    // biome-ignore lint/a11y/useSemanticElements: a fieldset cannot be laid out in one line everywhere.
    <div class="filters" role="group" aria-label={t('alerts.filter')}>
      {SEVERITIES.map((one) => (
        <a
          key={one}
          class={`filter severity-${one}`}
          href={place.with({ severity: severity === one ? null : one })}
          aria-current={severity === one ? 'true' : undefined}
          data-testid={`filter-${one}`}
        >
          <SeverityMark severity={one} />
          {t(`severity.${one}`)}
        </a>
      ))}
      <select
        aria-label={t('alerts.filter_kind')}
        value={kind ?? ''}
        onChange={(event) => place.go(place.with({ kind: event.currentTarget.value || null }))}
      >
        <option value="">{t('alerts.every_kind')}</option>
        {listed.map((one) => (
          <option key={one} value={one}>
            {kindName(one)}
          </option>
        ))}
      </select>
    </div>
  );
}
