// SPDX-License-Identifier: Apache-2.0
import type { Indicator, IndicatorUnit } from '../../api/types';
import { barOf } from './bounds';
import { plain } from './say';

const share = (part: number): string => `${(part * 100).toFixed(2)}%`;

/** Lower to upper bound as a band, the value as a tick, the target as a line. Words stand beside. */
export function BoundsBar({ item, unit }: { item: Indicator; unit: IndicatorUnit }) {
  const bar = barOf(item, unit);
  if (!bar) return null;
  return (
    <div class="bounds" aria-hidden="true" data-testid="bounds-bar">
      <div class="bounds-bar">
        <span class="uptime-lit" style={{ width: share(bar.lower) }} />
        <span
          class={bar.endless ? 'bounds-band endless' : 'bounds-band'}
          style={{ left: share(bar.lower), width: share(bar.upper - bar.lower) }}
        />
        {bar.value !== null && <span class="bounds-value" style={{ left: share(bar.value) }} />}
        {bar.target !== null && <span class="bounds-target" style={{ left: share(bar.target) }} />}
      </div>
      <div class="bounds-ends">
        <span>{bar.axis.from === 0 ? '0' : plain(bar.axis.from, unit)}</span>
        <span>{plain(bar.axis.to, unit)}</span>
      </div>
    </div>
  );
}
