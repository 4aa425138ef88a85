// SPDX-License-Identifier: Apache-2.0
/**
 * One live stream of server-sent events that stays alive: it resumes by itself, starts again
 * when the server refused it, ended it or fell silent, and never hammers. It touches nothing but
 * its arguments, so a shared worker could host it for all tabs.
 */

export interface StreamEnvironment {
  connect(url: string): EventSource;
  after(ms: number, callback: () => void): () => void;
  random(): number;
}

export interface StreamHandlers {
  event(name: string, data: unknown): void;
  /** The connection broke; `refused` when the server answered with something else than a stream. */
  broken(refused: boolean): void;
}

export interface Stream {
  close(): void;
}

export const EVENTS = ['snapshot', 'delta', 'overview', 'reset', 'ping'] as const;

/** Three pings of 15 s: a connection that says nothing for so long is dead, whatever it claims. */
const SILENCE_MAX_MS = 45_000;
const DELAY_MIN_MS = 1_000;
const DELAY_MAX_MS = 30_000;

export const browser: StreamEnvironment = {
  connect: (url) => new EventSource(url),
  after: (ms, callback) => {
    const timer = setTimeout(callback, ms);
    return () => clearTimeout(timer);
  },
  random: () => Math.random(),
};

export function openStream(
  url: string,
  handlers: StreamHandlers,
  environment: StreamEnvironment = browser,
): Stream {
  let source: EventSource | null = null;
  let attempts = 0;
  let closed = false;
  let cancelRetry: () => void = () => undefined;
  let cancelWatch: () => void = () => undefined;

  const drop = (): void => {
    cancelRetry();
    cancelWatch();
    source?.close();
    source = null;
  };

  const retry = (): void => {
    drop();
    if (closed) return;
    const ceiling = Math.min(DELAY_MAX_MS, DELAY_MIN_MS * 2 ** attempts);
    attempts += 1;
    cancelRetry = environment.after(ceiling * (0.5 + environment.random() / 2), start);
  };

  const watch = (): void => {
    cancelWatch();
    cancelWatch = environment.after(SILENCE_MAX_MS, () => {
      handlers.broken(false);
      retry();
    });
  };

  const start = (): void => {
    const mine = environment.connect(url);
    source = mine;
    watch();
    for (const name of EVENTS) {
      mine.addEventListener(name, (message: MessageEvent<string>) => {
        if (source !== mine) return;
        watch();
        if (name === 'reset') {
          // A new connection carries no Last-Event-ID, so it begins with a snapshot.
          retry();
          return;
        }
        attempts = 0;
        handlers.event(name, JSON.parse(message.data));
      });
    }
    mine.onerror = () => {
      if (source !== mine) return;
      // CONNECTING: the browser resumes by itself, with Last-Event-ID. CLOSED: it gave up.
      const refused = mine.readyState === 2;
      handlers.broken(refused);
      if (refused) retry();
    };
  };

  start();
  return {
    close: () => {
      closed = true;
      drop();
    },
  };
}
