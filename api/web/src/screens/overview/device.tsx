// SPDX-License-Identifier: Apache-2.0
/** One device at a glance: its state, its latest values, what it last reported. */
import { useEffect, useState } from 'preact/hooks';
import { ApiError, query, request } from '../../api/client';
import type { DeviceDetail, HistoryRow, Page } from '../../api/types';
import { nameOf, t } from '../../i18n';
import { Dialog } from '../../ui/dialog';
import { StateMark } from '../../ui/icons';
import { Failure, Loading } from '../../ui/states';
import { Age, exact, When } from '../../ui/time';
import {
  faultWord,
  fieldName,
  gistOf,
  kindName,
  placeName,
  shownValues,
  valueWord,
} from '../../ui/words';

const POLL_MS = 5_000;
const ROWS = 20;
const TIMES = new Set(['at', 'received_at']);

export function DeviceDialog({ id, onClose }: { id: string; onClose: () => void }) {
  const [device, setDevice] = useState<DeviceDetail | null>(null);
  const [rows, setRows] = useState<readonly HistoryRow[] | null>(null);
  const [error, setError] = useState<ApiError | null>(null);

  useEffect(() => {
    const leaving = new AbortController();
    let timer: ReturnType<typeof setTimeout> | undefined;
    const path = `/devices/${encodeURIComponent(id)}`;
    const fetchBoth = async (): Promise<void> => {
      const { signal } = leaving;
      try {
        const [one, history] = await Promise.all([
          request<DeviceDetail>('GET', path, { signal }),
          request<Page<HistoryRow>>('GET', `${path}/history${query({ limit: ROWS })}`, { signal }),
        ]);
        setDevice(one);
        setRows(history.items);
        setError(null);
      } catch (reason) {
        if (signal.aborted) return;
        if (!(reason instanceof ApiError)) throw reason;
        setError(reason);
      }
      timer = setTimeout(fetchBoth, POLL_MS);
    };
    void fetchBoth();
    return () => {
      leaving.abort();
      clearTimeout(timer);
    };
  }, [id]);

  return (
    <Dialog
      id="device"
      title={device ? nameOf(device, id) : id}
      onClose={onClose}
      testId="device-dialog"
    >
      {error && <Failure error={error} />}
      {!device && !error && <Loading />}
      {device && (
        <>
          <dl class="facts">
            <div>
              <dt>{t('device.state')}</dt>
              <dd class={`with-mark state-${device.state}`}>
                <StateMark state={device.state} />
                {t(`state.${device.state}`)}
              </dd>
            </div>
            {device.fault && (
              <div>
                <dt>{t('field.fault')}</dt>
                <dd class="state-fault">{faultWord(device.fault)}</dd>
              </div>
            )}
            <div>
              <dt>{t('device.device')}</dt>
              <dd>
                {kindName(device.kind)} · <code>{device.device}</code>
              </dd>
            </div>
            <div>
              <dt>{t('device.place')}</dt>
              <dd>{placeName(device.area, '')}</dd>
            </div>
            <div>
              <dt>{t('device.gateway')}</dt>
              <dd>
                <code>{device.gateway}</code>
              </dd>
            </div>
            <div>
              <dt>{t('device.seen_at')}</dt>
              <dd>
                <Age at={device.at} ago /> <span class="muted small">{exact(device.at)}</span>
              </dd>
            </div>
            <div>
              <dt>{t('device.received_at')}</dt>
              <dd>
                <Age at={device.received_at} ago />{' '}
                <span class="muted small">{exact(device.received_at)}</span>
              </dd>
            </div>
          </dl>
          <h3>{t('device.values')}</h3>
          <dl class={device.state === 'offline' ? 'facts greyed' : 'facts'}>
            {shownValues(device.values)
              .filter(([name]) => name !== 'fault' && !TIMES.has(name))
              .map(([name, value]) => (
                <div key={name}>
                  <dt>{fieldName(name)}</dt>
                  <dd>{valueWord(name, value)}</dd>
                </div>
              ))}
          </dl>
          <Facility device={device} />
          <h3>{t('device.history', { count: ROWS })}</h3>
          {rows && <History rows={rows} />}
        </>
      )}
    </Dialog>
  );
}

const FACILITY = [
  'component_code',
  'owner',
  'maker',
  'model',
  'road',
  'planned_on',
  'installed_on',
  'warranty_until',
  'programme',
] as const;

/** What the registry says of the thing itself; what it does not know is left out. */
function Facility({ device }: { device: DeviceDetail }) {
  const power = device.rated_power_w;
  return (
    <section data-testid="facility">
      <h3>{t('device.facility')}</h3>
      <dl class="facts">
        <div>
          <dt>{t('device.life')}</dt>
          <dd>{t(`life.${device.life}`)}</dd>
        </div>
        {FACILITY.filter((name) => device[name] !== null).map((name) => (
          <div key={name}>
            <dt>{t(`facility.${name}`)}</dt>
            <dd>{device[name]}</dd>
          </div>
        ))}
        {power !== null && (
          <div>
            <dt>{t('facility.rated_power_w')}</dt>
            <dd>{valueWord('rated_power_w', power)}</dd>
          </div>
        )}
        <div>
          <dt>{t('facility.in_service_from')}</dt>
          <dd>{exact(device.in_service_from)}</dd>
        </div>
      </dl>
    </section>
  );
}

function History({ rows }: { rows: readonly HistoryRow[] }) {
  if (!rows.length) return <p class="muted">{t('device.no_history')}</p>;
  return (
    <div class="table-wrap">
      <table class="table">
        <thead>
          <tr>
            <th scope="col">{t('device.seen_at')}</th>
            <th scope="col">{t('device.values')}</th>
            <th scope="col">{t('device.received_at')}</th>
          </tr>
        </thead>
        <tbody>
          {rows.map((row) => {
            const values = Object.fromEntries(
              Object.entries(row).filter(([name]) => !TIMES.has(name)),
            );
            return (
              <tr key={`${row.at}${row.received_at}`}>
                <td>
                  <When at={row.at} />
                </td>
                <td>
                  {gistOf(values)}
                  {typeof row.fault === 'string' && (
                    <span class="state-fault block">{faultWord(row.fault)}</span>
                  )}
                </td>
                <td>
                  <When at={row.received_at} />
                </td>
              </tr>
            );
          })}
        </tbody>
      </table>
    </div>
  );
}
