// SPDX-License-Identifier: Apache-2.0
/** What a rule saw when it raised an alert, value by value. */
import type { Alert } from '../../api/types';
import { named } from '../../i18n';
import { exact } from '../../ui/time';
import { fieldName, shownValues, valueWord } from '../../ui/words';

export interface Seen {
  readonly name: string;
  readonly label: string;
  readonly word: string;
}

export function seenValues(alert: Pick<Alert, 'rule' | 'params'>): readonly Seen[] {
  return shownValues(alert.params).map(([name, value]) => ({
    name,
    // What a rule of the platform says may have the name of some device's field: `stream`.
    label: named(`rule.${alert.rule}.field.${name}`, fieldName(name)),
    word: typeof value === 'string' && name.endsWith('_at') ? exact(value) : valueWord(name, value),
  }));
}
