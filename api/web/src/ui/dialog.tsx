// SPDX-License-Identifier: Apache-2.0
/** The native dialog, with focus going back to where it came from. */
import type { ComponentChildren } from 'preact';
import { useEffect, useLayoutEffect, useRef } from 'preact/hooks';
import { t } from '../i18n';
import { Icon } from './icons';

interface Props {
  readonly id: string;
  readonly title: ComponentChildren;
  readonly onClose: () => void;
  readonly children: ComponentChildren;
  /** A drawer stands beside the page on wide screens and leaves it usable. */
  readonly drawer?: boolean;
  readonly testId?: string;
  /** Changes when the dialog shows something else: focus then returns to its heading. */
  readonly subject?: string;
}

const NARROW = '(max-width: 719px)';

export function Dialog({ id, title, onClose, children, drawer = false, testId, subject }: Props) {
  const element = useRef<HTMLDialogElement>(null);
  const heading = useRef<HTMLHeadingElement>(null);
  const close = useRef(onClose);
  close.current = onClose;

  useLayoutEffect(() => {
    const dialog = element.current;
    const origin = document.activeElement;
    if (!dialog) return undefined;
    const modal = !drawer || matchMedia(NARROW).matches;
    dialog.classList.toggle('modal', modal);
    if (modal) dialog.showModal();
    else dialog.show();
    const onEscape = (event: KeyboardEvent): void => {
      // One layer at a time: a modal dialog above the drawer takes its own Escape.
      if (event.key !== 'Escape' || event.defaultPrevented || event.isComposing) return;
      if (modal || document.querySelector('dialog.modal[open]')) return;
      event.preventDefault();
      close.current();
    };
    document.addEventListener('keydown', onEscape);
    return () => {
      document.removeEventListener('keydown', onEscape);
      dialog.close();
      if (origin instanceof HTMLElement && origin.isConnected) origin.focus();
    };
  }, [drawer]);

  useEffect(() => {
    const wanted = element.current?.querySelector<HTMLElement>('[data-autofocus]');
    (wanted ?? heading.current)?.focus();
  }, [subject]);

  return (
    <dialog
      ref={element}
      class={drawer ? 'drawer' : 'modal'}
      aria-labelledby={`${id}-title`}
      data-testid={testId}
      onCancel={(event) => {
        event.preventDefault();
        close.current();
      }}
    >
      <header class="dialog-head">
        <h2 id={`${id}-title`} ref={heading} tabIndex={-1}>
          {title}
        </h2>
        <button type="button" class="icon-button" onClick={onClose} aria-label={t('action.close')}>
          <Icon name="close" />
        </button>
      </header>
      <div class="dialog-body">{children}</div>
    </dialog>
  );
}
