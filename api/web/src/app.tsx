// SPDX-License-Identifier: Apache-2.0
import { useEffect } from 'preact/hooks';
import { ErrorBoundary, LocationProvider, lazy, Route, Router } from 'preact-iso';
import { t } from './i18n';
import { leave, watch } from './live/store';
import { usePlace } from './navigation';
import { LogIn } from './screens/login';
import { checkSession, me, sessionFailure } from './session';
import { Shell } from './shell';
import { Empty, Failure, Loading } from './ui/states';

const Overview = lazy(() => import('./screens/overview/overview'));
const Alerts = lazy(() => import('./screens/alerts/alerts'));
const Indicators = lazy(() => import('./screens/indicators/indicators'));

export function App() {
  const person = me.value;
  if (person === undefined) {
    const error = sessionFailure.value;
    return (
      <main class="main alone">
        {error ? <Failure error={error} onRetry={() => checkSession()} /> : <Loading />}
      </main>
    );
  }
  if (person === null) return <LogIn />;
  return (
    <LocationProvider scope={/^\/(?!docs\/|api\/)/}>
      <Screens />
    </LocationProvider>
  );
}

function Screens() {
  const { area } = usePlace();
  useEffect(() => watch(area), [area]);
  useEffect(() => leave, []);
  return (
    <Shell>
      <ErrorBoundary>
        <Router>
          <Route path="/" component={Overview} />
          <Route path="/alerts" component={Alerts} />
          <Route path="/indicators" component={Indicators} />
          <Route default component={NotFound} />
        </Router>
      </ErrorBoundary>
    </Shell>
  );
}

function NotFound() {
  const place = usePlace();
  return (
    <Empty title={t('state.no_page')} heading>
      <a class="button" href={place.to('/')}>
        {t('nav.overview')}
      </a>
    </Empty>
  );
}
