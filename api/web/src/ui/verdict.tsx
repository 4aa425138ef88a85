// SPDX-License-Identifier: Apache-2.0
import type { Verdict } from '../api/types';
import { t } from '../i18n';
import { VerdictMark } from './icons';

/** Sign and word, not colour alone; nothing where no target is set. */
export function VerdictChip({ verdict }: { verdict: Verdict | null }) {
  if (verdict === null) return null;
  return (
    <span class={`chip verdict-${verdict}`} data-testid="verdict" data-verdict={verdict}>
      <VerdictMark verdict={verdict} />
      {t(`verdict.${verdict}`)}
    </span>
  );
}
