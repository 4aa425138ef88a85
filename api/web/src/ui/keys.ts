// SPDX-License-Identifier: Apache-2.0
import { useEffect, useRef } from 'preact/hooks';
import { shortcuts } from './preferences';

/** True where a key press is text, part of an input method, or belongs to the browser. */
export function isTyping(event: KeyboardEvent): boolean {
  if (event.isComposing || event.ctrlKey || event.metaKey || event.altKey) return true;
  const target = event.target;
  if (!(target instanceof HTMLElement)) return false;
  return target.isContentEditable || /^(INPUT|TEXTAREA|SELECT)$/.test(target.tagName);
}

/** Single-key shortcuts; a handler returns false to let the key go its way. */
export function useShortcuts(keys: Readonly<Record<string, (event: KeyboardEvent) => boolean>>) {
  const latest = useRef(keys);
  latest.current = keys;
  useEffect(() => {
    const press = (event: KeyboardEvent): void => {
      if (!shortcuts.value || event.defaultPrevented || isTyping(event)) return;
      if (document.querySelector('dialog.modal[open]')) return;
      if (latest.current[event.key]?.(event)) event.preventDefault();
    };
    document.addEventListener('keydown', press);
    return () => document.removeEventListener('keydown', press);
  }, []);
}
