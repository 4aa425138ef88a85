// SPDX-License-Identifier: Apache-2.0
import { type Key, t } from '../i18n';
import { Dialog } from './dialog';
import { shortcuts } from './preferences';

const KEYS: readonly (readonly [readonly string[], Key])[] = [
  [['j', '↓'], 'shortcuts.next'],
  [['k', '↑'], 'shortcuts.previous'],
  [['Enter'], 'shortcuts.open'],
  [['a'], 'shortcuts.acknowledge'],
  [['Esc'], 'shortcuts.close'],
  [['Space'], 'shortcuts.pause'],
  [['?'], 'shortcuts.help'],
];

export function ShortcutList({ onClose }: { onClose: () => void }) {
  return (
    <Dialog id="shortcuts" title={t('shortcuts.title')} onClose={onClose} testId="shortcuts">
      <dl class="keys">
        {KEYS.map(([keys, label]) => (
          <div key={label}>
            <dt>
              {keys.map((key) => (
                <kbd key={key}>{key}</kbd>
              ))}
            </dt>
            <dd>{t(label)}</dd>
          </div>
        ))}
      </dl>
      <label class="check">
        <input
          type="checkbox"
          checked={shortcuts.value}
          onChange={(event) => {
            shortcuts.value = event.currentTarget.checked;
          }}
        />
        {t('shortcuts.enabled')}
      </label>
    </Dialog>
  );
}
