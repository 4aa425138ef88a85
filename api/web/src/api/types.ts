// SPDX-License-Identifier: Apache-2.0
/** What the API answers, as far as the console reads it. Instants are RFC 3339 in UTC. */

export type Severity = 'critical' | 'major' | 'minor' | 'info';
export const SEVERITIES: readonly Severity[] = ['critical', 'major', 'minor', 'info'];

export type DeviceState = 'normal' | 'fault' | 'offline' | 'unknown' | 'maintenance';
export const ABNORMAL_STATES = ['fault', 'offline', 'unknown', 'maintenance'] as const;

export type Verdict = 'met' | 'not_met' | 'undetermined';
export type Scalar = string | number | boolean | null;
export type Values = Readonly<Record<string, unknown>>;

export interface Me {
  readonly username: string;
  readonly role: string;
  readonly area: string;
  readonly area_name: string | null;
  readonly language: string | null;
  readonly simulated: boolean;
  readonly version: string;
}

export interface Area {
  readonly area: string;
  readonly parent: string | null;
  readonly level: string;
  readonly name: string;
  readonly name_en: string | null;
  readonly time_zone: string;
  readonly children: number;
}

export interface KindCount {
  readonly kind: string;
  readonly total: number;
  readonly normal: number;
  readonly fault: number;
  readonly offline: number;
  readonly unknown: number;
  readonly maintenance: number;
}

export type IndicatorUnit = 'fraction' | 'per_mille_year' | 's' | 'kg' | 'kWh' | 'count';

/** How good a number is: a share has bounds, a sum none; times are medians. */
export type IndicatorShape = 'share' | 'sum' | 'rate' | 'times';

export interface IndicatorTarget {
  readonly value: number;
  readonly better: 'high' | 'low';
  readonly source: string;
  readonly source_name: Readonly<Record<string, string>>;
}

/** What an indicator means, as it is computed. Texts by language. */
export interface IndicatorDefinition {
  readonly indicator: string;
  readonly domain: string;
  readonly shape: IndicatorShape;
  readonly unit: IndicatorUnit;
  readonly parts_unit: IndicatorUnit;
  readonly by_kind: boolean;
  readonly name: Readonly<Record<string, string>>;
  readonly formula: Readonly<Record<string, string>>;
  readonly target: IndicatorTarget | null;
  readonly rule_version: number;
}

export interface Indicator {
  readonly from: string;
  readonly to: string;
  readonly label: string;
  /** Device class; empty: all together. */
  readonly kind: string;
  readonly value: number | null;
  readonly lower: number | null;
  readonly upper: number | null;
  readonly coverage: number | null;
  readonly p90: number | null;
  readonly numerator: number | null;
  readonly denominator: number | null;
  readonly total: number | null;
  readonly excluded: Readonly<Record<string, number>>;
  readonly subjects: number;
  readonly verdict: Verdict | null;
  readonly target: number | null;
  readonly revision: number;
  readonly status: 'provisional' | 'final';
}

export interface IndicatorSeries {
  readonly area: string;
  readonly definition: IndicatorDefinition;
  /** Why there is no number: single times stay in the cities below. */
  readonly absent?: 'single_times' | null;
  readonly items: readonly Indicator[];
}

export interface IndicatorTable {
  readonly area: string;
  readonly from: string;
  readonly to: string;
  readonly items: readonly IndicatorSeries[];
}

/** One road over the nights asked about; dark lamps are those of its worst night. */
export interface Road {
  readonly community: string;
  readonly road: string;
  readonly nights: number;
  readonly met: number;
  readonly not_met: number;
  readonly undetermined: number;
  readonly lamps: number;
  readonly dark: number;
  readonly unknown: number;
  /** Null: so many lamps that no rule applies. */
  readonly dark_max: number | null;
  readonly worst_night: string;
}

export interface Roads {
  readonly area: string;
  readonly from: string;
  readonly to: string;
  readonly items: readonly Road[];
}

/** A final number as it was before it was restated. */
export interface IndicatorRevision {
  readonly area: string;
  readonly kind: string;
  readonly day: string;
  readonly revision: number;
  readonly numerator: number;
  readonly denominator: number;
  readonly total: number;
  readonly computed_at: string;
  readonly replaced_at: string;
  readonly reason: string;
}

export interface IndicatorRevisions {
  readonly indicator: string;
  readonly parts_unit: IndicatorUnit;
  readonly items: readonly IndicatorRevision[];
}

export interface Lighting {
  readonly night: string;
  readonly due_from: string | null;
  readonly due_to: string | null;
  readonly in_progress: boolean;
  readonly indicator: Indicator | null;
  readonly next: { readonly due_from: string; readonly due_to: string } | null;
}

/** Of the desk; `quiet` are open alerts that are kept from it. */
export interface AlertCounts {
  readonly unacknowledged: number;
  readonly active: number;
  readonly by_severity: Readonly<Partial<Record<Severity, number>>>;
  readonly oldest_at: string | null;
  readonly quiet: number;
}

export interface Gateway {
  readonly gateway: string;
  readonly community: string;
  readonly name: string | null;
  readonly silent: boolean;
  readonly last_seen_at: string | null;
  readonly outbox_messages: number | null;
  readonly outbox_hours: number | null;
  readonly clock: string;
  readonly version: string | null;
  readonly life: Life;
}

export interface ChildArea {
  readonly area: string;
  readonly name: string;
  readonly name_en: string | null;
  readonly devices: number;
  readonly fault: number;
  readonly offline: number;
  readonly unacknowledged: number;
  readonly critical: number;
  readonly uptime: {
    readonly value: number | null;
    readonly lower: number | null;
    readonly upper: number | null;
    readonly verdict: Verdict;
  } | null;
}

export interface Overview {
  readonly area: Area;
  readonly at: string;
  readonly kinds: readonly KindCount[];
  readonly lighting: Lighting | null;
  readonly alerts: AlertCounts;
  readonly bins_full: number;
  readonly gates_held: number;
  readonly gateways: readonly Gateway[];
  readonly cities: readonly City[];
  readonly children: readonly ChildArea[];
}

/** A city that tells its numbers and keeps its devices; stale when it did not for long. */
export interface City {
  readonly city: string;
  readonly area: string;
  readonly name: string;
  readonly name_en: string | null;
  readonly last_seen_at: string | null;
  readonly told_at: string | null;
  readonly waiting: number | null;
  readonly stale: boolean;
}

/** Put aside until then: shelved, or out of service. */
export interface Aside {
  readonly until: string;
  readonly by: string;
  readonly reason: string;
  readonly once: boolean;
}

export interface Alert {
  readonly id: string;
  readonly rule: string;
  readonly severity: Severity;
  readonly subject: string;
  readonly kind: string | null;
  readonly device: string | null;
  readonly gateway: string | null;
  readonly area: string;
  readonly community: string;
  readonly name: string | null;
  readonly name_en: string | null;
  readonly params: Values;
  readonly active: boolean;
  readonly acknowledged: boolean;
  readonly raised_at: string;
  readonly received_at: string;
  readonly cleared_at: string | null;
  readonly acknowledged_at: string | null;
  readonly acknowledged_by: string | null;
  readonly note: string | null;
  readonly late: boolean;
  readonly version: number;
  readonly life_safety: boolean;
  readonly standing: number;
  readonly repeats: number;
  readonly last_raised_at: string;
  readonly latched: boolean;
  readonly suppressed_by: readonly string[];
  readonly shelved: Aside | null;
  readonly out_of_service: Aside | null;
  /** Kept from the desk: put aside or suppressed, and no danger to life. */
  readonly quiet: boolean;
  readonly stale: boolean;
  /** What people call a rule of their own; null: the product's, which the catalogue names. */
  readonly rule_name: Readonly<Record<'zh-CN' | 'en', string>> | null;
}

export interface TimelineEntry {
  readonly at: string;
  readonly actor: string | null;
  readonly action: string;
  readonly reason: string | null;
  readonly note: string | null;
  readonly occurrence: number | null;
  readonly params: Values;
  /** Of `cleared`: how long the condition had held. */
  readonly lasted_s: number | null;
}

/** One time that the condition held. */
export interface Occurrence {
  readonly id: number;
  readonly active: boolean;
  readonly late: boolean;
  readonly raised_at: string;
  readonly received_at: string;
  readonly cleared_at: string | null;
  readonly acknowledged_at: string | null;
  readonly params: Values;
}

/** Of many occurrences and steps the last; the counts are of all. */
export interface AlertDetail extends Alert {
  readonly active_s: number;
  readonly occurrence_count: number;
  readonly occurrences: readonly Occurrence[];
  readonly step_count: number;
  readonly timeline: readonly TimelineEntry[];
}

export interface Page<T> {
  readonly items: readonly T[];
  readonly next_cursor: string | null;
}

/** One changed device, as the stream and the snapshot's feed carry it. */
export interface DeviceChange {
  readonly device: string;
  readonly kind: string;
  readonly state: DeviceState;
  readonly at: string | null;
  readonly received_at: string | null;
  readonly values: Values;
  readonly area: string;
  readonly name: string | null;
  readonly name_en: string | null;
}

export interface Device extends DeviceChange {
  readonly gateway: string;
  readonly community: string;
  readonly life: Life;
  readonly road: string | null;
  readonly since?: string | null;
  readonly fault: string | null;
}

export const LIVES = ['planned', 'installed', 'in_service', 'maintenance', 'retired'] as const;
export type Life = (typeof LIVES)[number];

/** A device with what the registry says of it. Dates are local, without a time. */
export interface DeviceDetail extends Device {
  readonly in_service_from: string;
  readonly rated_power_w: number | null;
  readonly programme: string | null;
  readonly component_code: string | null;
  readonly owner: string | null;
  readonly maker: string | null;
  readonly model: string | null;
  readonly planned_on: string | null;
  readonly installed_on: string | null;
  readonly warranty_until: string | null;
}

/** One stored reading of a device: `at`, `received_at` and the fields of its class. */
export type HistoryRow = Readonly<Record<string, unknown>> & {
  readonly at: string;
  readonly received_at: string;
};

export type CaseNature = 'duress' | 'fire' | 'crime' | 'nuisance';
export type CaseState = 'open' | 'confirmed' | 'closed';
export type CaseOutcome = 'false_alarm' | 'test' | 'duplicate' | 'equipment_fault' | 'withdrawn';

/** Alerts that tell of one thing, and what was found; `rule` is that of the worst of them. */
export interface CaseRow {
  readonly id: string;
  readonly nature: CaseNature;
  readonly rule: string;
  readonly severity: Severity;
  /** By a person. */
  readonly severity_set: boolean;
  readonly state: CaseState;
  readonly outcome: CaseOutcome | null;
  readonly duplicate_of: string | null;
  readonly merged_into: string | null;
  readonly split_from: string | null;
  readonly assignee: string | null;
  readonly area: string;
  readonly community: string;
  readonly alert_count: number;
  readonly note_count: number;
  /** A valid code was entered after one of its alerts. */
  readonly aborted: boolean;
  readonly incident: string | null;
  readonly first_at: string;
  readonly last_at: string;
  readonly opened_at: string;
  readonly changed_at: string;
  readonly version: number;
}

/** `cases` are the open ones, for the police and whoever answers for all; else none. */
export interface Snapshot {
  readonly cursor: string;
  readonly at: string;
  readonly overview: Overview;
  readonly alerts: readonly Alert[];
  readonly cases?: readonly CaseRow[];
  readonly feed?: readonly (DeviceChange | Alert)[];
}

/** `cases_gone` are ids of cases told before that are not of the area any more. */
export interface Delta {
  readonly cursor: string;
  readonly at: string;
  readonly devices?: readonly DeviceChange[];
  readonly alerts?: readonly Alert[];
  readonly cases?: readonly CaseRow[];
  readonly cases_gone?: readonly string[];
  readonly gateways?: readonly (Partial<Gateway> & { readonly gateway: string })[];
}

/** RFC 9457, with our `code`. */
export interface Problem {
  readonly type?: string;
  readonly title?: string;
  readonly status?: number;
  readonly detail?: string;
  readonly instance?: string;
  readonly code?: string;
  readonly [extension: string]: unknown;
}
