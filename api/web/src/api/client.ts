// SPDX-License-Identifier: Apache-2.0
/** The one way to the API: JSON in, JSON out, every failure an `ApiError`. */
import type { Problem } from './types';

const TIMEOUT_MS = 15_000;

/**
 * ApiError
 * - status 0: no answer (no network, or none within 15 s); try again later
 * - status 401: no session; log in
 * - otherwise: what the API said, in `problem`
 */
export class ApiError extends Error {
  constructor(
    readonly status: number,
    readonly problem: Problem,
    readonly requestId: string | null,
  ) {
    super(problem.title ?? problem.code ?? `HTTP ${status}`);
    this.name = 'ApiError';
  }

  get code(): string {
    return this.problem.code ?? (this.status === 0 ? 'network' : `http.${this.status}`);
  }
}

interface Options {
  readonly body?: unknown;
  readonly headers?: Readonly<Record<string, string>>;
  readonly signal?: AbortSignal;
}

let unauthorized: () => void = () => undefined;

/** Called whenever the API answers 401 to anything but a log-in attempt. */
export function onUnauthorized(callback: () => void): void {
  unauthorized = callback;
}

/** `path` below /api/v1, without it. Aborting by `signal` rejects with an AbortError. */
export async function request<T>(method: string, path: string, options: Options = {}): Promise<T> {
  const timeout = new AbortController();
  const timer = setTimeout(() => timeout.abort(), TIMEOUT_MS);
  const forward = (): void => timeout.abort();
  options.signal?.addEventListener('abort', forward);
  let response: Response;
  let text: string;
  try {
    response = await fetch(`/api/v1${path}`, {
      method,
      credentials: 'same-origin',
      cache: 'no-store',
      signal: timeout.signal,
      headers: {
        Accept: 'application/json',
        'Accept-Language': document.documentElement.lang,
        ...(options.body === undefined ? {} : { 'Content-Type': 'application/json' }),
        ...options.headers,
      },
      ...(options.body === undefined ? {} : { body: JSON.stringify(options.body) }),
    });
    text = await response.text();
  } catch (error) {
    if (options.signal?.aborted) throw error;
    throw new ApiError(0, { code: timeout.signal.aborted ? 'timeout' : 'network' }, null);
  } finally {
    clearTimeout(timer);
    options.signal?.removeEventListener('abort', forward);
  }
  const requestId = response.headers.get('X-Request-Id');
  if (response.ok) return (text === '' ? undefined : JSON.parse(text)) as T;
  if (response.status === 401 && !(method === 'POST' && path === '/session')) unauthorized();
  throw new ApiError(response.status, parseProblem(text), requestId);
}

function parseProblem(text: string): Problem {
  try {
    const parsed: unknown = JSON.parse(text);
    return typeof parsed === 'object' && parsed !== null ? (parsed as Problem) : {};
  } catch {
    // A proxy in front of the api answers in its own words, usually HTML.
    return {};
  }
}

/** A query string with what is set, `?` included; empty when nothing is. */
export function query(parameters: Readonly<Record<string, string | number | null | undefined>>) {
  const search = new URLSearchParams();
  for (const [name, value] of Object.entries(parameters)) {
    if (value !== null && value !== undefined && value !== '') search.set(name, String(value));
  }
  const text = search.toString();
  return text === '' ? '' : `?${text}`;
}
