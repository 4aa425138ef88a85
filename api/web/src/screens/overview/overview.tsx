// SPDX-License-Identifier: Apache-2.0
/** Operations overview: is my area fine, and what comes first? */
import { useState } from 'preact/hooks';
import type { DeviceState } from '../../api/types';
import { nameOf, t } from '../../i18n';
import { failure, fresh, picture, retry } from '../../live/store';
import { usePlace } from '../../navigation';
import { areas } from '../../session';
import { Empty, Failure, Loading } from '../../ui/states';
import { ChildAreas } from './children';
import { Cities } from './cities';
import { DeviceDialog } from './device';
import { DeviceList } from './devices';
import { Feed } from './feed';
import { Gateways } from './gateways';
import { LightingTile } from './lighting';
import { AlertsTile, CountTile, KindTile } from './tiles';

const STATES: readonly string[] = ['normal', 'fault', 'offline', 'unknown', 'maintenance', 'all'];

export default function OverviewScreen() {
  const place = usePlace();
  const [device, setDevice] = useState<string | null>(null);
  const shown = picture.value;
  const here = shown?.overview.area ?? areas.value.get(place.area);
  const heading = (
    <h1 class="visually-hidden">
      {t('overview.title', { area: here ? nameOf(here, here.area) : place.area })}
    </h1>
  );
  if (!shown) {
    const error = failure.value;
    return (
      <>
        {heading}
        {error ? <Failure error={error} onRetry={retry} /> : <Loading rows={6} />}
        {error?.status === 404 && (
          <p class="centered">
            <a href={place.with({ area: null })}>{t('area.home')}</a>
          </p>
        )}
      </>
    );
  }
  const { overview } = shown;
  const present = overview.kinds.filter((counts) => counts.total > 0);
  const { kind, state } = place.query;
  // Numbers are told by cities, which keep their devices: nothing here is nought of them.
  const told = present.length === 0 && overview.cities.length > 0;
  return (
    <div class="overview" data-stale={fresh.value === 'stale'}>
      {heading}
      {present.length === 0 && !told && (
        <Empty title={t('overview.no_devices')}>
          <p>{t('overview.no_devices_next')}</p>
          <p>
            <code>./dev demo</code> · <code>linli-ingest registry import</code>
          </p>
        </Empty>
      )}
      {present.length > 0 && (
        <section class="tiles kinds" aria-label={t('overview.devices')}>
          {present.map((counts) => (
            <KindTile key={counts.kind} counts={counts} />
          ))}
        </section>
      )}
      {told && <Cities items={overview.cities} below={overview.children} />}
      {!told && (
        <section class="tiles second" aria-label={t('overview.today')}>
          <LightingTile lighting={overview.lighting} area={overview.area.area} />
          <AlertsTile />
          <div class="tile-pair">
            <CountTile
              testId="tile-bins-full"
              icon="bin"
              kind="bin"
              label="overview.bins_full"
              count={overview.bins_full}
            />
            <CountTile
              testId="tile-gates-held"
              icon="gate"
              kind="gate"
              label="overview.gates_held"
              count={overview.gates_held}
            />
          </div>
        </section>
      )}
      <div class="columns">
        <div class="column-main">
          {overview.children.length > 0 && !told && (
            <ChildAreas
              items={overview.children}
              inProgress={overview.lighting?.in_progress ?? false}
            />
          )}
          {!told && <Gateways items={overview.gateways} />}
        </div>
        <Feed entries={shown.feed} onDevice={setDevice} />
      </div>
      {kind && state && STATES.includes(state) && (
        <DeviceList
          area={overview.area.area}
          kind={kind}
          state={state === 'all' ? null : (state as DeviceState)}
          onDevice={setDevice}
          onClose={() => place.go(place.with({ kind: null, state: null }))}
        />
      )}
      {device !== null && <DeviceDialog id={device} onClose={() => setDevice(null)} />}
    </div>
  );
}
