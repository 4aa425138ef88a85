// SPDX-License-Identifier: Apache-2.0
import { useState } from 'preact/hooks';
import { ApiError } from '../api/client';
import { t } from '../i18n';
import { expired, logIn } from '../session';
import { Brand } from '../ui/icons';
import { LanguageSwitch } from '../ui/language';
import { problemTitle } from '../ui/states';

export function LogIn() {
  const [busy, setBusy] = useState(false);
  const [wrong, setWrong] = useState<string | null>(null);

  const submit = async (event: SubmitEvent): Promise<void> => {
    event.preventDefault();
    const form = event.currentTarget as HTMLFormElement;
    const entered = new FormData(form);
    setBusy(true);
    setWrong(null);
    try {
      await logIn(String(entered.get('username')), String(entered.get('password')));
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      setWrong(error.status === 401 ? t('login.wrong') : problemTitle(error));
      setBusy(false);
      const password = form.querySelector<HTMLInputElement>('[name=password]');
      password?.focus();
      password?.select();
    }
  };

  return (
    <div class="login-page">
      <main class="login-card">
        <div class="login-head">
          <Brand />
          <h1>{t('app.name')}</h1>
          <LanguageSwitch />
        </div>
        <p class="muted">{expired.value ? t('login.expired') : t('login.lead')}</p>
        <form onSubmit={submit}>
          <label class="field">
            <span>{t('login.username')}</span>
            <input
              name="username"
              autocomplete="username"
              autocapitalize="none"
              spellcheck={false}
              required
              data-testid="login-username"
            />
          </label>
          <label class="field">
            <span>{t('login.password')}</span>
            <input
              name="password"
              type="password"
              autocomplete="current-password"
              required
              data-testid="login-password"
            />
          </label>
          <p class="form-error" role="alert" data-testid="login-error">
            {wrong}
          </p>
          <button
            type="submit"
            class="button primary wide"
            disabled={busy}
            data-testid="login-submit"
          >
            {busy ? t('login.busy') : t('login.submit')}
          </button>
        </form>
      </main>
    </div>
  );
}
