// SPDX-License-Identifier: Apache-2.0
import { render } from 'preact';
import { App } from './app';
import { startLanguage } from './i18n';
import { checkSession } from './session';

async function main(): Promise<void> {
  const root = document.getElementById('app');
  if (!root) throw new Error('index.html has no #app');
  await startLanguage();
  render(<App />, root);
  await checkSession();
}

void main();
