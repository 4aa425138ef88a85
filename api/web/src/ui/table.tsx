// SPDX-License-Identifier: Apache-2.0
import { t } from '../i18n';

export interface Sort {
  readonly by: string;
  readonly descending: boolean;
}

interface Props {
  readonly by: string;
  readonly label: string;
  readonly sort: Sort | null;
  readonly numeric?: boolean;
  readonly onSort: (sort: Sort) => void;
}

/** Numbers are sorted from the largest first, words from the first. */
export function SortHeader({ by, label, sort, numeric = false, onSort }: Props) {
  const active = sort?.by === by;
  const descending = active ? !sort.descending : numeric;
  return (
    <th
      scope="col"
      class={numeric ? 'num' : undefined}
      aria-sort={active ? (sort.descending ? 'descending' : 'ascending') : undefined}
    >
      <button
        type="button"
        class={active ? 'sort active' : 'sort'}
        title={t('action.sort', { column: label })}
        onClick={() => onSort({ by, descending })}
      >
        {label}
        <span class="sort-mark" aria-hidden="true">
          {active && !sort.descending ? '▴' : '▾'}
        </span>
      </button>
    </th>
  );
}
