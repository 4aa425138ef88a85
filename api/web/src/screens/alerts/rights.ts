// SPDX-License-Identifier: Apache-2.0
/**
 * Who is offered to acknowledge. The api decides (`api/scope.py`); this only keeps a button from
 * those it would refuse. Pure.
 */
export function mayAcknowledge(role: string, rule: string): boolean {
  return role !== 'property' || !(rule.startsWith('alarm.') || rule === 'gate.forced');
}
