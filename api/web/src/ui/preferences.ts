// SPDX-License-Identifier: Apache-2.0
/** What a person set for this browser. A browser that stores nothing still works. */
import { effect, signal } from '@preact/signals';

export const THEMES = ['auto', 'light', 'dark'] as const;
export type Theme = (typeof THEMES)[number];

export const theme = signal<Theme>(asTheme(read('linli.theme')));
/** Keys without a modifier may be switched off (WCAG 2.1.4). */
export const shortcuts = signal(read('linli.shortcuts') !== 'off');

effect(() => {
  if (theme.value === 'auto') delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme.value;
  write('linli.theme', theme.value);
});

effect(() => write('linli.shortcuts', shortcuts.value ? 'on' : 'off'));

function asTheme(text: string | null): Theme {
  return THEMES.find((known) => known === text) ?? 'auto';
}

function read(key: string): string | null {
  try {
    return localStorage.getItem(key);
  } catch {
    // Storage may be forbidden by policy; then the defaults hold.
    return null;
  }
}

function write(key: string, value: string): void {
  try {
    localStorage.setItem(key, value);
  } catch {
    // As above: the choice then lasts as long as the page.
  }
}
