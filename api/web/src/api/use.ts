// SPDX-License-Identifier: Apache-2.0
/** What the API answers to one question, for as long as a part of the page asks it. */
import { useEffect, useState } from 'preact/hooks';
import { ApiError, request } from './client';

export interface Asked<T> {
  readonly answer: T | null;
  readonly error: ApiError | null;
  readonly again: () => void;
}

/**
 * Asks anew whenever `path` changes; null asks nothing. The former answer goes at once, so numbers
 * of two places or months are never mixed. `everyMs` asks again quietly: a failure then leaves
 * what is shown.
 */
export function useAnswer<T>(path: string | null, everyMs: number | null = null): Asked<T> {
  const [found, setFound] = useState<{ path: string; answer: T } | null>(null);
  const [failed, setFailed] = useState<{ path: string; error: ApiError } | null>(null);
  const [round, setRound] = useState(0);

  useEffect(() => {
    if (path === null) return undefined;
    const leaving = new AbortController();
    request<T>('GET', path, { signal: leaving.signal }).then(
      (answer) => {
        setFound({ path, answer });
        setFailed(null);
      },
      (reason: unknown) => {
        if (leaving.signal.aborted) return;
        if (!(reason instanceof ApiError)) throw reason;
        setFailed({ path, error: reason });
      },
    );
    return () => leaving.abort();
  }, [path, round]);

  useEffect(() => {
    if (path === null || everyMs === null) return undefined;
    const timer = setInterval(() => {
      if (!document.hidden) setRound((before) => before + 1);
    }, everyMs);
    return () => clearInterval(timer);
  }, [path, everyMs]);

  const answer = found !== null && found.path === path ? found.answer : null;
  return {
    answer,
    error: answer === null && failed !== null && failed.path === path ? failed.error : null,
    again: () => {
      setFailed(null);
      setRound((before) => before + 1);
    },
  };
}
