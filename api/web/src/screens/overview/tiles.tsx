// SPDX-License-Identifier: Apache-2.0
import { ABNORMAL_STATES, type KindCount, SEVERITIES } from '../../api/types';
import { formatNumber } from '../../format';
import { type Key, language, t } from '../../i18n';
import { openAlerts } from '../../live/picture';
import { picture } from '../../live/store';
import { usePlace } from '../../navigation';
import { Icon, type IconName, kindIcon, SeverityMark, StateMark } from '../../ui/icons';
import { Live } from '../../ui/live';
import { Age } from '../../ui/time';
import { kindName } from '../../ui/words';

const number = (value: number): string => formatNumber(value, language.value);

/** One class of devices. A new class needs nothing here: its tile comes with the data. */
export function KindTile({ counts }: { counts: KindCount }) {
  const place = usePlace();
  const { kind, total, normal } = counts;
  const id = `tile-${kind}`;
  const list = (state: string): string => place.with({ kind, state });
  return (
    <section class="tile kind-tile" data-testid={id} aria-labelledby={`${id}-name`}>
      <header class="tile-head">
        <Icon name={kindIcon(kind)} />
        <h2 id={`${id}-name`}>{kindName(kind)}</h2>
        <a
          class="tile-more"
          href={list('all')}
          aria-label={t('overview.list_all', { kind: kindName(kind) })}
        >
          {t('overview.all')}
        </a>
      </header>
      <p class="tile-figure">
        <Live value={normal}>
          <strong data-testid={`${id}-normal`}>{number(normal)}</strong>
        </Live>
        <span class="muted">
          {' / '}
          <span data-testid={`${id}-total`}>{number(total)}</span> {t('overview.normal')}
        </span>
      </p>
      <ShareBar counts={counts} />
      <ul class="state-counts">
        {ABNORMAL_STATES.filter(
          (state) => state === 'fault' || state === 'offline' || counts[state] > 0,
        ).map((state) => (
          <li key={state}>
            <a
              class={counts[state] > 0 ? `state-link state-${state}` : 'state-link none'}
              href={list(state)}
            >
              <StateMark state={state} />
              <span>{t(`state.${state}`)}</span>
              <Live value={counts[state]}>
                <strong data-testid={`${id}-${state}`}>{number(counts[state])}</strong>
              </Live>
            </a>
          </li>
        ))}
      </ul>
    </section>
  );
}

const SHARES = ['normal', ...ABNORMAL_STATES] as const;

/** Decoration for the eye; the counts below say the same. */
function ShareBar({ counts }: { counts: KindCount }) {
  return (
    <div class="share-bar" aria-hidden="true">
      {SHARES.filter((state) => counts[state] > 0).map((state) => (
        <span key={state} class={`share share-${state}`} style={{ flexGrow: counts[state] }} />
      ))}
    </div>
  );
}

/** Open alerts by severity; how long the oldest has been open. */
export function AlertsTile() {
  const place = usePlace();
  const shown = picture.value;
  if (!shown) return null;
  const open = openAlerts(shown);
  return (
    <section class="tile alerts-tile" data-testid="tile-alerts" aria-labelledby="tile-alerts-name">
      <header class="tile-head">
        <Icon name="alerts" />
        <h2 id="tile-alerts-name">{t('overview.open_alerts')}</h2>
        <a class="tile-more" href={place.to('/alerts')} aria-label={t('overview.to_alerts')}>
          {t('overview.all')}
        </a>
      </header>
      <p class="tile-figure">
        <Live value={open.unacknowledged}>
          <strong data-testid="alerts-unacknowledged">{number(open.unacknowledged)}</strong>
        </Live>
        <span class="muted">
          {' / '}
          <span data-testid="alerts-open">{number(open.total)}</span> {t('overview.unacknowledged')}
        </span>
      </p>
      <ul class="severity-counts">
        {SEVERITIES.map((severity) => (
          <li key={severity}>
            <a
              class={open.bySeverity[severity] > 0 ? `severity-${severity}` : 'none'}
              href={place.to('/alerts', { severity })}
            >
              <SeverityMark severity={severity} />
              <span>{t(`severity.${severity}`)}</span>
              <Live value={open.bySeverity[severity]}>
                <strong data-testid={`alerts-${severity}`}>
                  {number(open.bySeverity[severity])}
                </strong>
              </Live>
            </a>
          </li>
        ))}
      </ul>
      <p class="muted">
        {open.oldestAt === null ? (
          t('overview.no_alerts')
        ) : (
          <>
            {t('overview.oldest')} <Age at={open.oldestAt} />
          </>
        )}
      </p>
    </section>
  );
}

interface CountProps {
  readonly testId: string;
  readonly icon: IconName;
  readonly kind: string;
  readonly label: Key;
  readonly count: number;
}

export function CountTile({ testId, icon, kind, label, count }: CountProps) {
  const place = usePlace();
  return (
    <a
      class={count > 0 ? 'tile count-tile attention' : 'tile count-tile'}
      href={place.to('/alerts', { kind })}
      data-testid={testId}
    >
      <Icon name={icon} />
      <span>{t(label)}</span>
      <Live value={count}>
        <strong>{number(count)}</strong>
      </Live>
    </a>
  );
}
