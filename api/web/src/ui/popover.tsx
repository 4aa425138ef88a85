// SPDX-License-Identifier: Apache-2.0
/** A button that opens a panel; closed by Escape, by leaving it, or by choosing. */
import type { ComponentChildren } from 'preact';
import { useEffect, useRef, useState } from 'preact/hooks';

interface Props {
  readonly label: string;
  readonly button: ComponentChildren;
  readonly align?: 'start' | 'end';
  readonly class?: string;
  readonly testId?: string;
  readonly children: (close: () => void) => ComponentChildren;
}

export function Popover({
  label,
  button,
  align = 'start',
  class: name = '',
  testId,
  children,
}: Props) {
  const [open, setOpen] = useState(false);
  const root = useRef<HTMLDivElement>(null);
  const opener = useRef<HTMLButtonElement>(null);

  useEffect(() => {
    if (!open) return undefined;
    const outside = (event: Event): void => {
      if (event.target instanceof Node && !root.current?.contains(event.target)) setOpen(false);
    };
    const onEscape = (event: KeyboardEvent): void => {
      if (event.key !== 'Escape' || event.isComposing) return;
      event.preventDefault();
      setOpen(false);
      opener.current?.focus();
    };
    document.addEventListener('pointerdown', outside);
    document.addEventListener('focusin', outside);
    document.addEventListener('keydown', onEscape, true);
    return () => {
      document.removeEventListener('pointerdown', outside);
      document.removeEventListener('focusin', outside);
      document.removeEventListener('keydown', onEscape, true);
    };
  }, [open]);

  return (
    <div class={`popover ${name}`} ref={root}>
      <button
        type="button"
        class="popover-button"
        ref={opener}
        aria-expanded={open}
        aria-label={label}
        data-testid={testId}
        onClick={() => setOpen(!open)}
      >
        {button}
      </button>
      {open && (
        <div class={`popover-panel ${align}`}>
          {children(() => {
            setOpen(false);
            opener.current?.focus();
          })}
        </div>
      )}
    </div>
  );
}
