// SPDX-License-Identifier: Apache-2.0
/** What stands around every screen: where one is, who one is, and how fresh the data is. */
import type { ComponentChildren } from 'preact';
import { useEffect, useState } from 'preact/hooks';
import type { Area } from './api/types';
import { type Key, named, nameOf, t } from './i18n';
import { openAlerts } from './live/picture';
import { fresh, link, picture, tick } from './live/store';
import { usePlace } from './navigation';
import { areas, logOut, me } from './session';
import { assertively, politely } from './ui/announce';
import { ancestors, listed } from './ui/areas';
import { Brand, Icon, type IconName, SeverityMark } from './ui/icons';
import { useShortcuts } from './ui/keys';
import { LanguageSwitch } from './ui/language';
import { Popover } from './ui/popover';
import { shortcuts, THEMES, theme } from './ui/preferences';
import { ShortcutList } from './ui/shortcuts';
import { StaleBanner } from './ui/states';
import { spanWords } from './ui/time';

const SCREENS: readonly { path: string; icon: IconName; label: Key }[] = [
  { path: '/', icon: 'overview', label: 'nav.overview' },
  { path: '/alerts', icon: 'alerts', label: 'nav.alerts' },
  { path: '/indicators', icon: 'indicators', label: 'nav.indicators' },
];

export function Shell({ children }: { children: ComponentChildren }) {
  const place = usePlace();
  const [help, setHelp] = useState(false);
  useTitle(place.path);
  useShortcuts({
    '?': () => {
      setHelp(true);
      return true;
    },
  });
  return (
    <div class="shell" data-freshness={fresh.value}>
      <a class="skip-link" href="#main">
        {t('nav.skip')}
      </a>
      <nav class="rail" aria-label={t('nav.label')}>
        <a class="brand" href={place.to('/')} aria-label={t('app.name')}>
          <Brand />
        </a>
        {SCREENS.map(({ path, icon, label }) => (
          <a
            key={path}
            class="rail-item"
            href={place.to(path)}
            aria-current={place.path === path ? 'page' : undefined}
          >
            <span class="rail-icon">
              <Icon name={icon} size={22} />
              {path === '/alerts' && <AlertBadge />}
            </span>
            <span>{t(label)}</span>
          </a>
        ))}
        <a class="rail-item" href="/docs/" target="_blank" rel="noreferrer">
          <span class="rail-icon">
            <Icon name="docs" size={22} />
          </span>
          <span>{t('nav.docs')}</span>
        </a>
      </nav>
      <header class="topbar">
        <AreaSwitch />
        {me.value?.simulated && (
          <span class="simulated" data-testid="simulated">
            <span>{t('app.simulated')}</span>
          </span>
        )}
        <div class="topbar-end">
          <CriticalCount />
          <LiveDot />
          <LanguageSwitch />
          <PersonMenu onShortcuts={() => setHelp(true)} />
        </div>
      </header>
      <main id="main" class="main" tabIndex={-1}>
        <StaleBanner />
        {children}
      </main>
      <div class="visually-hidden" aria-live="polite">
        {politely.value}
      </div>
      <div class="visually-hidden" aria-live="assertive">
        {assertively.value}
      </div>
      {help && <ShortcutList onClose={() => setHelp(false)} />}
    </div>
  );
}

function criticalCount(): number {
  return picture.value ? openAlerts(picture.value).bySeverity.critical : 0;
}

function useTitle(path: string): void {
  const critical = criticalCount();
  const screen = SCREENS.find((one) => one.path === path);
  const name = screen ? `${t(screen.label)} · ${t('app.name')}` : t('app.name');
  useEffect(() => {
    document.title = critical > 0 ? `(${critical}) ${name}` : name;
    document
      .getElementById('favicon')
      ?.setAttribute('href', critical > 0 ? '/favicon-critical.svg' : '/favicon.svg');
  }, [critical, name]);
}

function AlertBadge() {
  const count = picture.value ? openAlerts(picture.value).unacknowledged : 0;
  if (count === 0) return null;
  return (
    <span class="badge" data-testid="nav-unacknowledged">
      <span class="visually-hidden">{t('nav.unacknowledged')} </span>
      {count > 99 ? '99+' : count}
    </span>
  );
}

function CriticalCount() {
  const place = usePlace();
  const count = criticalCount();
  if (count === 0) return null;
  return (
    <a
      class="critical-count"
      href={place.to('/alerts', { severity: 'critical' })}
      data-testid="critical-count"
    >
      <SeverityMark severity="critical" />
      {t('alerts.critical_open', { count })}
    </a>
  );
}

function LiveDot() {
  const { heardAt } = link.value;
  const state = fresh.value;
  const age = heardAt === null ? null : spanWords(tick.value - heardAt);
  return (
    <span class="live" data-testid="live-dot" data-state={state}>
      <span class="live-dot" aria-hidden="true" />
      <span class="live-word">{t(state === 'stale' ? 'live.lost' : `live.${state}`)}</span>
      {age !== null && <span class="live-age">{t('span.ago', { span: age })}</span>}
    </span>
  );
}

function AreaSwitch() {
  const place = usePlace();
  const here = areas.value.get(place.area);
  const path = ancestors(areas.value, place.area);
  const [search, setSearch] = useState('');
  const shown = listed(areas.value, place.area, search, (area) => nameOf(area, area.area));
  const address = (area: Area): string =>
    place.with({ area: area.area === me.value?.area ? null : area.area, alert: null });
  return (
    <div class="area-switch">
      <ol class="crumbs" aria-label={t('area.path')}>
        {path.map((area) => (
          <li key={area.area}>
            <a href={address(area)}>{nameOf(area, area.area)}</a>
          </li>
        ))}
      </ol>
      <Popover
        label={t('area.switch', { name: here ? nameOf(here, place.area) : place.area })}
        testId="area-switch"
        button={
          <>
            <Icon name="area" size={18} />
            <strong>{here ? nameOf(here, place.area) : place.area}</strong>
            <Icon name="down" size={16} />
          </>
        }
      >
        {(close) => (
          <>
            {areas.value.size > 8 && (
              <input
                class="search"
                type="search"
                aria-label={t('area.search')}
                placeholder={t('area.search')}
                value={search}
                onInput={(event) => setSearch(event.currentTarget.value)}
              />
            )}
            <ul class="area-list">
              {shown.map(({ area, depth }) => (
                <li key={area.area} class={`depth-${Math.min(depth, 4)}`}>
                  <a
                    href={address(area)}
                    aria-current={area.area === place.area ? 'true' : undefined}
                    onClick={() => {
                      setSearch('');
                      close();
                    }}
                  >
                    <span>{nameOf(area, area.area)}</span>
                    <span class="muted">{named(`level.${area.level}`, area.level)}</span>
                  </a>
                </li>
              ))}
            </ul>
            {shown.length === 0 && <p class="muted">{t('area.none')}</p>}
          </>
        )}
      </Popover>
    </div>
  );
}

function PersonMenu({ onShortcuts }: { onShortcuts: () => void }) {
  const person = me.value;
  if (!person) return null;
  return (
    <Popover
      label={t('person.menu', { name: person.username })}
      align="end"
      testId="person-menu"
      button={
        <>
          <Icon name="person" size={18} />
          <span class="person-name">{person.username}</span>
        </>
      }
    >
      {(close) => (
        <div class="menu">
          <p>
            <strong>{person.username}</strong>
            <br />
            <span class="muted">
              {named(`role.${person.role}`, person.role)} · {person.area_name ?? person.area}
            </span>
          </p>
          <fieldset>
            <legend>{t('theme.label')}</legend>
            <div class="segmented">
              {THEMES.map((one) => (
                <button
                  key={one}
                  type="button"
                  aria-pressed={theme.value === one}
                  onClick={() => {
                    theme.value = one;
                  }}
                >
                  {t(`theme.${one}`)}
                </button>
              ))}
            </div>
          </fieldset>
          <button
            type="button"
            class="menu-item"
            onClick={() => {
              close();
              onShortcuts();
            }}
          >
            {t('shortcuts.title')} {shortcuts.value && <kbd>?</kbd>}
          </button>
          <a class="menu-item" href="/docs/" target="_blank" rel="noreferrer">
            {t('nav.docs')}
          </a>
          <button type="button" class="menu-item" data-testid="logout" onClick={() => logOut()}>
            {t('action.logout')}
          </button>
          <p class="muted small">{t('app.version', { version: person.version })}</p>
        </div>
      )}
    </Popover>
  );
}
