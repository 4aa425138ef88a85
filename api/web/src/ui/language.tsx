// SPDX-License-Identifier: Apache-2.0
import { language, setLanguage, t } from '../i18n';
import { LANGUAGES } from '../locale/pick';

export function LanguageSwitch() {
  return (
    // biome-ignore lint/a11y/useSemanticElements: a fieldset cannot be laid out in one line everywhere.
    <div class="segmented" role="group" aria-label={t('language.label')}>
      {LANGUAGES.map((one) => (
        <button
          key={one}
          type="button"
          lang={one}
          aria-pressed={language.value === one}
          data-testid={`language-${one}`}
          onClick={() => setLanguage(one, { remember: true })}
        >
          {t(`language.${one}`)}
        </button>
      ))}
    </div>
  );
}
