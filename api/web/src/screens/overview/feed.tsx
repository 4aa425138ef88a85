// SPDX-License-Identifier: Apache-2.0
/** What is happening now: the last fifty changes, held still while a person reads. */
import { useRef, useState } from 'preact/hooks';
import type { DeviceChange } from '../../api/types';
import { formatSeconds } from '../../format';
import { nameOf, t } from '../../i18n';
import type { FeedEntry } from '../../live/picture';
import { usePlace } from '../../navigation';
import { Icon, kindIcon, SeverityMark, StateMark } from '../../ui/icons';
import { useShortcuts } from '../../ui/keys';
import { clock, exact } from '../../ui/time';
import { alertTitle, faultWord, gistOf, kindName, placeName, subjectName } from '../../ui/words';

interface Props {
  readonly entries: readonly FeedEntry[];
  readonly onDevice: (device: string) => void;
}

export function Feed({ entries, onDevice }: Props) {
  const [paused, setPaused] = useState(false);
  const [hovered, setHovered] = useState(false);
  const [focused, setFocused] = useState(false);
  const held = paused || hovered || focused;
  const frozen = useRef(entries);
  if (!held) frozen.current = entries;
  const known = new Set(frozen.current.map((entry) => entry.id));
  const waiting = held ? entries.filter((entry) => !known.has(entry.id)).length : 0;
  useShortcuts({
    ' ': (event) => {
      // Space on a button or link presses it.
      if (event.target instanceof HTMLElement && event.target.closest('a,button,summary'))
        return false;
      setPaused(!paused);
      return true;
    },
  });
  return (
    <section class="panel feed" data-testid="feed" data-paused={held} aria-labelledby="feed-name">
      <header class="panel-head">
        <h2 id="feed-name">{t('feed.title')}</h2>
        {held && (
          <span class="muted" data-testid="feed-waiting">
            {waiting > 0 ? t('feed.waiting', { count: waiting }) : t('feed.paused')}
          </span>
        )}
        <button
          type="button"
          class="button small"
          aria-pressed={paused}
          data-testid="feed-pause"
          onClick={() => setPaused(!paused)}
        >
          <Icon name={paused ? 'play' : 'pause'} size={14} />
          {paused ? t('feed.resume') : t('feed.pause')}
        </button>
      </header>
      {frozen.current.length === 0 ? (
        <p class="muted panel-text">{t('feed.empty')}</p>
      ) : (
        <ol
          class="feed-list"
          onPointerEnter={(event) => setHovered(event.pointerType === 'mouse')}
          onPointerLeave={() => setHovered(false)}
          onFocusIn={() => setFocused(true)}
          onFocusOut={() => setFocused(false)}
        >
          {frozen.current.map((entry) => (
            <li key={entry.id} class="feed-entry" data-testid="feed-entry">
              {entry.what === 'alert' ? (
                <AlertEntry entry={entry} />
              ) : (
                <DeviceEntry change={entry.change} onDevice={onDevice} />
              )}
              <time class="feed-time" dateTime={entry.at} title={exact(entry.at)}>
                {formatSeconds(entry.at, clock())}
              </time>
            </li>
          ))}
        </ol>
      )}
    </section>
  );
}

function AlertEntry({ entry }: { entry: Extract<FeedEntry, { what: 'alert' }> }) {
  const place = usePlace();
  const { alert } = entry;
  const step =
    alert.acknowledged_at !== null && entry.at === alert.acknowledged_at
      ? t('alerts.step.acknowledged')
      : alert.active
        ? null
        : t('alerts.step.cleared');
  return (
    <>
      <span class="feed-mark">
        <SeverityMark severity={alert.severity} />
      </span>
      <span class="feed-text">
        <a
          class={`severity-${alert.severity} strong`}
          href={place.to('/alerts', {
            alert: alert.id,
            tab: alert.acknowledged ? 'acknowledged' : null,
          })}
        >
          {alertTitle(alert)}
        </a>
        {step && <span class="chip small">{step}</span>}
        <span class="muted block">
          {placeName(alert.area, place.area)} · {subjectName(alert)}
        </span>
      </span>
    </>
  );
}

function DeviceEntry({
  change,
  onDevice,
}: {
  change: DeviceChange;
  onDevice: (device: string) => void;
}) {
  const place = usePlace();
  const { state, kind } = change;
  const fault = typeof change.values.fault === 'string' ? faultWord(change.values.fault) : null;
  const words = [state === 'normal' ? null : t(`state.${state}`), fault, gistOf(change.values)];
  return (
    <>
      <span class="feed-mark">
        {state === 'normal' ? (
          <Icon name={kindIcon(kind)} size={16} />
        ) : (
          <StateMark state={state} />
        )}
      </span>
      <span class="feed-text">
        <button type="button" class="link" onClick={() => onDevice(change.device)}>
          {nameOf(change, change.device)}
        </button>{' '}
        <span class={state === 'normal' ? undefined : `state-${state}`}>
          {words.filter(Boolean).join(' · ')}
        </span>
        <span class="muted block">
          {placeName(change.area, place.area)} · {kindName(kind)}
        </span>
      </span>
    </>
  );
}
