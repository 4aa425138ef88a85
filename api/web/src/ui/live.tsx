// SPDX-License-Identifier: Apache-2.0
import type { ComponentChildren } from 'preact';
import { useEffect, useRef } from 'preact/hooks';

/** A number that shows when it changed, and only then. */
export function Live({ value, children }: { value: number; children: ComponentChildren }) {
  const element = useRef<HTMLSpanElement>(null);
  const before = useRef(value);
  useEffect(() => {
    if (before.current === value) return;
    before.current = value;
    const { current } = element;
    if (!current) return;
    current.classList.remove('changed');
    void current.offsetWidth; // restarts the animation
    current.classList.add('changed');
  }, [value]);
  return (
    <span class="live-number" ref={element}>
      {children}
    </span>
  );
}
