// SPDX-License-Identifier: Apache-2.0
/**
 * The two languages. Catalogues are flat: one key, one text; what the platform stores (rules,
 * classes, states, fields, units) is named by `ingest/locales`, what only the console says by
 * `api/locales`, and of its indicators by `locale/indicators`. Only the language in use is loaded.
 */
import { signal } from '@preact/signals';
import i18next from 'i18next';
import { cookieLanguage, type Language, pickLanguage } from './locale/pick';
import type zh from './locale/zh-CN';

type Stored = keyof typeof zh;
type Plural = Stored extends infer K ? (K extends `${infer B}_other` ? B : never) : never;
export type Key = Stored | Plural;
export type Params = Readonly<Record<string, string | number>>;

const load: Record<Language, () => Promise<{ default: Record<string, string> }>> = {
  'zh-CN': () => import('./locale/zh-CN'),
  en: () => import('./locale/en'),
};

const catalogue = i18next.createInstance();
export const language = signal<Language>('zh-CN');

export async function startLanguage(): Promise<void> {
  const first = pickLanguage(cookieLanguage(document.cookie), navigator.languages);
  await catalogue.init({
    lng: first,
    fallbackLng: false,
    // Ids of rules and devices hold dots and dashes; a key is a key, not a path.
    keySeparator: false,
    nsSeparator: false,
    interpolation: { escapeValue: false },
    resources: { [first]: { translation: (await load[first]()).default } },
  });
  await setLanguage(first, { remember: false });
}

/** `remember` writes the cookie that documents rendered by the server read as well. */
export async function setLanguage(next: Language, { remember }: { remember: boolean }) {
  if (!catalogue.hasResourceBundle(next, 'translation')) {
    catalogue.addResourceBundle(next, 'translation', (await load[next]()).default);
  }
  await catalogue.changeLanguage(next);
  document.documentElement.lang = next;
  if (remember) {
    // biome-ignore lint/suspicious/noDocumentCookie: the Cookie Store API is above the browser floor.
    document.cookie = `linli_language=${next}; Path=/; Max-Age=31536000; SameSite=Lax`;
  }
  language.value = next;
}

export function t(key: Key, params: Params = {}): string {
  void language.value; // whoever shows a text is drawn again when the language changes
  return catalogue.t(key, params);
}

/** For keys that come from the data; `fallback` when the catalogue does not know them. */
export function named(key: string, fallback: string, params: Params = {}): string {
  void language.value;
  return catalogue.exists(key) ? catalogue.t(key, params) : fallback;
}

/** The text behind a key as it stands in the catalogue, placeholders and all. */
export function template(key: string): string | null {
  void language.value;
  const found: unknown = catalogue.getResource(language.value, 'translation', key);
  return typeof found === 'string' ? found : null;
}

/** Names stay as entered; the English one is optional. */
export function nameOf(
  thing: { readonly name: string | null; readonly name_en: string | null },
  fallback: string,
): string {
  const english = language.value === 'en' ? thing.name_en : null;
  return english || thing.name || fallback;
}
