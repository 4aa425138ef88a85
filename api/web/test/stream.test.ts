// SPDX-License-Identifier: Apache-2.0
import { beforeEach, expect, test } from 'vitest';
import { openStream, type StreamEnvironment } from '../src/live/stream';

/** A server at the other end of the seam: it speaks, refuses, falls silent. */
class Connection extends EventTarget {
  readyState = 1;
  onerror: (() => void) | null = null;

  say(name: string, data: unknown): void {
    this.dispatchEvent(new MessageEvent(name, { data: JSON.stringify(data) }));
  }

  fail(readyState: 0 | 2): void {
    this.readyState = readyState;
    this.onerror?.();
  }

  close(): void {
    this.readyState = 2;
  }
}

let connections: Connection[];
let timers: { due: number; callback: () => void }[];
let now: number;
let heard: [string, unknown][];
let breaks: boolean[];

const environment: StreamEnvironment = {
  connect: () => {
    const connection = new Connection();
    connections.push(connection);
    return connection as unknown as EventSource;
  },
  after: (ms, callback) => {
    const timer = { due: now + ms, callback };
    timers.push(timer);
    return () => {
      timers = timers.filter((other) => other !== timer);
    };
  },
  random: () => 1,
};

function pass(ms: number): void {
  const until = now + ms;
  for (;;) {
    const next = timers.filter((timer) => timer.due <= until).sort((a, b) => a.due - b.due)[0];
    if (!next) break;
    timers = timers.filter((timer) => timer !== next);
    now = next.due;
    next.callback();
  }
  now = until;
}

function latest(): Connection {
  const last = connections[connections.length - 1];
  if (!last) throw new Error('nobody connected');
  return last;
}

function open() {
  return openStream(
    '/stream',
    { event: (name, data) => heard.push([name, data]), broken: (refused) => breaks.push(refused) },
    environment,
  );
}

beforeEach(() => {
  connections = [];
  timers = [];
  now = 0;
  heard = [];
  breaks = [];
});

test('events arrive parsed', () => {
  open();
  latest().say('delta', { cursor: 'x-1' });
  expect(heard).toEqual([['delta', { cursor: 'x-1' }]]);
});

test('the browser resumes a broken connection by itself', () => {
  open();
  latest().fail(0);
  pass(20_000);
  expect(breaks).toEqual([false]);
  expect(connections).toHaveLength(1);
});

test('a refused connection is tried again, ever more slowly, at most every 30 s', () => {
  open();
  const gaps: number[] = [];
  for (let i = 0; i < 8; i += 1) {
    const before = now;
    const count = connections.length;
    latest().fail(2);
    while (connections.length === count) pass(500);
    gaps.push(now - before);
  }
  expect(gaps).toEqual([1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000, 30_000]);
  expect(breaks.every((refused) => refused)).toBe(true);
});

test('an event forgives all failures before it', () => {
  open();
  for (let i = 0; i < 5; i += 1) {
    latest().fail(2);
    pass(30_000);
  }
  latest().say('ping', {});
  const count = connections.length;
  latest().fail(2);
  pass(1_000);
  expect(connections).toHaveLength(count + 1);
});

test('a connection that says nothing is replaced', () => {
  open();
  pass(44_000);
  expect(connections).toHaveLength(1);
  pass(3_000);
  expect(connections).toHaveLength(2);
  expect(breaks).toEqual([false]);
});

test('reset starts anew, and what the old connection still says is ignored', () => {
  open();
  const old = latest();
  old.say('reset', {});
  pass(1_000);
  expect(connections).toHaveLength(2);
  old.say('delta', {});
  latest().say('snapshot', {});
  expect(heard.map(([name]) => name)).toEqual(['snapshot']);
});

test('closed is closed', () => {
  const stream = open();
  latest().fail(2);
  stream.close();
  pass(120_000);
  expect(connections).toHaveLength(1);
});
