// SPDX-License-Identifier: Apache-2.0
/** Which language a person reads. Pure. */

export const LANGUAGES = ['zh-CN', 'en'] as const;
export type Language = (typeof LANGUAGES)[number];

export function asLanguage(tag: string | null | undefined): Language | null {
  if (!tag) return null;
  const primary = tag.toLowerCase().split('-')[0];
  if (primary === 'zh') return 'zh-CN';
  return primary === 'en' ? 'en' : null;
}

export function cookieLanguage(cookies: string): Language | null {
  for (const part of cookies.split(';')) {
    const [name, value] = part.trim().split('=');
    if (name === 'linli_language') return asLanguage(value);
  }
  return null;
}

/** What was chosen here, else the first language of the browser that we speak, else zh-CN. */
export function pickLanguage(chosen: Language | null, preferred: readonly string[]): Language {
  if (chosen) return chosen;
  for (const tag of preferred) {
    const known = asLanguage(tag);
    if (known) return known;
  }
  return 'zh-CN';
}
