// SPDX-License-Identifier: Apache-2.0
/** Orders of the tables of child areas and gateways. Pure. */
import type { ChildArea, Gateway } from '../../api/types';
import type { Sort } from '../../ui/table';

type Compare<T> = (a: T, b: T) => number;

function first<T>(...orders: readonly Compare<T>[]): Compare<T> {
  return (a, b) => {
    for (const order of orders) {
      const difference = order(a, b);
      if (difference !== 0) return difference;
    }
    return 0;
  };
}

const most =
  <T>(of: (item: T) => number): Compare<T> =>
  (a, b) =>
    of(b) - of(a);

/** No figure is neither good nor bad: it stands after every figure. */
const uptime = (child: ChildArea): number => child.uptime?.value ?? 2;

/** What endangers people, then what waits for someone, then what is broken, then what is dark. */
const WORST: Compare<ChildArea> = first(
  most((child) => child.critical),
  most((child) => child.unacknowledged),
  most((child) => child.fault),
  most((child) => child.offline),
  most((child) => -uptime(child)),
);

const COLUMNS: Readonly<Record<string, (child: ChildArea) => number>> = {
  devices: (child) => child.devices,
  fault: (child) => child.fault,
  offline: (child) => child.offline,
  unacknowledged: (child) => child.unacknowledged,
  critical: (child) => child.critical,
  uptime,
};

/** `sort` null is worst first. */
export function sortedChildren(
  items: readonly ChildArea[],
  sort: Sort | null,
  name: (child: ChildArea) => string,
  language: string,
): readonly ChildArea[] {
  if (!sort) return [...items].sort(WORST);
  const column = COLUMNS[sort.by];
  const ascending: Compare<ChildArea> = column
    ? (a, b) => column(a) - column(b)
    : (a, b) => name(a).localeCompare(name(b), language);
  return [...items].sort(
    first((a, b) => (sort.descending ? ascending(b, a) : ascending(a, b)), WORST),
  );
}

/** Silent ones first, then the fullest outbox, then by name. */
export function sortedGateways(items: readonly Gateway[]): readonly Gateway[] {
  return [...items].sort(
    first(
      most((gateway) => (gateway.silent ? 1 : 0)),
      most((gateway) => gateway.outbox_messages ?? 0),
      (a, b) => a.gateway.localeCompare(b.gateway),
    ),
  );
}
