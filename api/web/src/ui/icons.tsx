// SPDX-License-Identifier: Apache-2.0
/** Shapes, drawn on a 24-unit grid. All decorative: the word always stands beside them. */
import type { ComponentChildren } from 'preact';
import type { DeviceState, Severity, Verdict } from '../api/types';

const PATHS = {
  overview: 'M4 13h6V4H4zM14 20h6V11h-6zM4 20h6v-3H4zM14 7h6V4h-6z',
  alerts: 'M6 17V11a6 6 0 0 1 12 0v6l1.5 2h-15zM10 21.5h4M12 2.5v2',
  indicators: 'M4 20.5h16M7 17v-5M12 17V5M17 17V9',
  download: 'M12 4v11M7.5 11l4.5 4.5 4.5-4.5M4.5 20h15',
  docs: 'M8 6 2.5 12 8 18M16 6l5.5 6-5.5 6M13.5 4l-3 16',
  more: 'M5 12h.01M12 12h.01M19 12h.01',
  lamp: 'M12 22V8M8.5 22h7M12 8c0-3 1.5-5 4.5-5M13.5 8.5 16.5 3l4 4.5zM4 6.5 2.5 5M6 3.8V2M3.8 9.2H2',
  bin: 'M4 7h16M9.5 7V4h5v3M6 7l1.2 14h9.6L18 7M10 11v6.5M14 11v6.5',
  gate: 'M4 21V3M20 21V3M4 6.5h16M4 17.5h16M8 6.5v11M12 6.5v11M16 6.5v11',
  alarm: 'M6 18v-5a6 6 0 0 1 12 0v5M4 21h16v-3H4zM12 3.5v-1M4.9 6.4l-.8-.8M19.1 6.4l.8-.8M12 11v3',
  device: 'M7 7h10v10H7zM10 3v4M14 3v4M10 17v4M14 17v4M3 10h4M3 14h4M17 10h4M17 14h4',
  area: 'M12 21.5s7-6.2 7-11.5a7 7 0 0 0-14 0c0 5.3 7 11.5 7 11.5zM12 12.5a2.5 2.5 0 1 0 0-5 2.5 2.5 0 0 0 0 5z',
  person: 'M12 12a4 4 0 1 0 0-8 4 4 0 0 0 0 8zM4.5 21c.6-4 3.6-6 7.5-6s6.9 2 7.5 6',
  close: 'M6 6l12 12M18 6 6 18',
  down: 'M6 9.5l6 6 6-6',
  check: 'M4.5 12.5l5 5 10-11',
  pause: 'M8.5 5v14M15.5 5v14',
  play: 'M8 5l11 7-11 7z',
  info: 'M12 11v6M12 7.5v.01M12 21.5a9.5 9.5 0 1 0 0-19 9.5 9.5 0 0 0 0 19z',
  moon: 'M20 14.5A8.5 8.5 0 1 1 9.5 4a7 7 0 0 0 10.5 10.5z',
  router: 'M4 14h16v6H4zM8 17h.01M12 17h.01M12 14v-3M8.5 8a5 5 0 0 1 7 0M6 5a8.5 8.5 0 0 1 12 0',
  keyboard: 'M3 6h18v12H3zM7 10h.01M11 10h.01M15 10h.01M17.5 10h.01M7.5 14.5h9',
} as const;

export type IconName = keyof typeof PATHS;

export function Icon({ name, size = 20 }: { name: IconName; size?: number }) {
  return (
    <svg
      class="icon"
      viewBox="0 0 24 24"
      width={size}
      height={size}
      aria-hidden="true"
      focusable="false"
    >
      <path d={PATHS[name]} />
    </svg>
  );
}

/** A class that the console does not know yet still gets a picture. */
export function kindIcon(kind: string): IconName {
  return kind === 'lamp' || kind === 'bin' || kind === 'gate' || kind === 'alarm' ? kind : 'device';
}

function Mark({ class: name, children }: { class: string; children: ComponentChildren }) {
  return (
    <svg
      class={`mark ${name}`}
      viewBox="0 0 16 16"
      width="14"
      height="14"
      aria-hidden="true"
      focusable="false"
    >
      {children}
    </svg>
  );
}

export function StateMark({ state }: { state: DeviceState }) {
  switch (state) {
    case 'normal':
      return (
        <Mark class="state-normal">
          <circle cx="8" cy="8" r="5.5" fill="currentColor" />
        </Mark>
      );
    case 'fault':
      return (
        <Mark class="state-fault">
          <path d="M8 1.8 15 14H1z" fill="currentColor" />
        </Mark>
      );
    case 'offline':
      return (
        <Mark class="state-offline">
          <circle cx="8" cy="8" r="5" fill="none" stroke="currentColor" stroke-width="2.4" />
        </Mark>
      );
    case 'maintenance':
      return (
        <Mark class="state-maintenance">
          <path d="M2.5 2.5h11v11h-11z" fill="currentColor" />
        </Mark>
      );
    default:
      return (
        <Mark class="state-unknown">
          <path
            d="M5 5.6C5 3.7 6.3 2.6 8 2.6s3 1.1 3 2.8c0 2.2-2.9 2.3-2.9 4.6M8 13.2v.01"
            fill="none"
            stroke="currentColor"
            stroke-width="2.2"
            stroke-linecap="round"
          />
        </Mark>
      );
  }
}

const SEVERITY_SHAPES: Record<Severity, string> = {
  critical: 'M5 .8h6L15.2 5v6L11 15.2H5L.8 11V5z',
  major: 'M8 1.2 15.4 14.4H.6z',
  minor: 'M8 .6 15.4 8 8 15.4.6 8z',
  info: 'M8 15A7 7 0 1 0 8 1a7 7 0 0 0 0 14z',
};

export function SeverityMark({ severity }: { severity: Severity }) {
  return (
    <Mark class={`severity-${severity}`}>
      <path d={SEVERITY_SHAPES[severity]} fill="currentColor" />
      <path
        class="mark-ink"
        d={severity === 'info' ? 'M8 7.4v4M8 4.4v.01' : 'M8 5.4v3.4M8 11.6v.01'}
        fill="none"
        stroke-width="1.8"
        stroke-linecap="round"
      />
    </Mark>
  );
}

export function VerdictMark({ verdict }: { verdict: Verdict }) {
  return (
    <Mark class={`verdict-${verdict}`}>
      {verdict === 'met' ? (
        <path d="M2.5 8.5 6.5 12.5 13.5 4" fill="none" stroke="currentColor" stroke-width="2.4" />
      ) : verdict === 'not_met' ? (
        <path d="M3.5 3.5l9 9M12.5 3.5l-9 9" fill="none" stroke="currentColor" stroke-width="2.4" />
      ) : (
        <path d="M2.5 8h11" fill="none" stroke="currentColor" stroke-width="2.4" />
      )}
    </Mark>
  );
}

/** Two roofs side by side: neighbours. */
export function Brand() {
  return (
    <svg
      class="brand-mark"
      viewBox="0 0 32 32"
      width="32"
      height="32"
      aria-hidden="true"
      focusable="false"
    >
      <rect width="32" height="32" rx="7" class="brand-ground" />
      <path class="brand-ink" d="M5 16.5 11.5 10l6.5 6.5M14 12.5l5-5 8 8M8 16v8h7v-5h4v5h5v-9" />
    </svg>
  );
}
