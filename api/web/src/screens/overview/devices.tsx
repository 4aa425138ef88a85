// SPDX-License-Identifier: Apache-2.0
/** The devices behind a number of a tile. */
import { useEffect, useState } from 'preact/hooks';
import { ApiError, query, request } from '../../api/client';
import { type Device, type DeviceState, LIVES, type Life, type Page } from '../../api/types';
import { nameOf, t } from '../../i18n';
import { Dialog } from '../../ui/dialog';
import { StateMark } from '../../ui/icons';
import { Empty, Failure, Loading } from '../../ui/states';
import { Age } from '../../ui/time';
import { faultWord, gistOf, kindName, placeName } from '../../ui/words';

interface Props {
  readonly area: string;
  readonly kind: string;
  readonly state: DeviceState | null;
  readonly onDevice: (device: string) => void;
  readonly onClose: () => void;
}

const PAGE = 100;

export function DeviceList({ area, kind, state, onDevice, onClose }: Props) {
  const [items, setItems] = useState<readonly Device[] | null>(null);
  const [cursor, setCursor] = useState<string | null>(null);
  const [life, setLife] = useState<Life | null>(null);
  const [error, setError] = useState<ApiError | null>(null);

  const fetchPage = (after: string | null, signal?: AbortSignal): void => {
    const path = `/devices${query({ area, kind, state, life, limit: PAGE, cursor: after })}`;
    request<Page<Device>>('GET', path, signal ? { signal } : {}).then(
      (page) => {
        setError(null);
        setItems((before) => [...(after === null ? [] : (before ?? [])), ...page.items]);
        setCursor(page.next_cursor);
      },
      (reason: unknown) => {
        if (signal?.aborted) return;
        if (!(reason instanceof ApiError)) throw reason;
        setError(reason);
      },
    );
  };

  useEffect(() => {
    const leaving = new AbortController();
    setItems(null);
    fetchPage(null, leaving.signal);
    return () => leaving.abort();
  }, [area, kind, state, life]);

  const title = state === null ? kindName(kind) : `${kindName(kind)} · ${t(`state.${state}`)}`;
  return (
    <Dialog id="devices" title={title} onClose={onClose} testId="device-list">
      {state === null && (
        <div class="filters">
          <select
            aria-label={t('device.life')}
            data-testid="life"
            value={life ?? ''}
            onChange={({ currentTarget: { value } }) =>
              setLife(LIVES.find((one) => one === value) ?? null)
            }
          >
            <option value="">{t('device.every_life')}</option>
            {LIVES.map((one) => (
              <option key={one} value={one}>
                {t(`life.${one}`)}
              </option>
            ))}
          </select>
        </div>
      )}
      {error && <Failure error={error} onRetry={() => fetchPage(cursor)} />}
      {!items && !error && <Loading />}
      {items?.length === 0 && (
        <Empty
          title={
            state === null
              ? t('devices.none')
              : t('devices.none_in_state', { state: t(`state.${state}`) })
          }
        />
      )}
      {items && items.length > 0 && (
        <div class="table-wrap">
          <table class="table cards" aria-labelledby="devices-title">
            <thead>
              <tr>
                <th scope="col">{t('device.device')}</th>
                <th scope="col">{t('device.place')}</th>
                <th scope="col">{t('device.state')}</th>
                <th scope="col">{t('device.values')}</th>
                <th scope="col">{t('device.heard')}</th>
              </tr>
            </thead>
            <tbody>
              {items.map((device) => (
                <tr key={device.device} data-testid="device-row" data-device={device.device}>
                  <th scope="row">
                    <button type="button" class="link" onClick={() => onDevice(device.device)}>
                      {nameOf(device, device.device)}
                    </button>
                    <span class="muted small block">{device.device}</span>
                  </th>
                  <td data-label={t('device.place')}>{placeName(device.area, area)}</td>
                  <td data-label={t('device.state')}>
                    <span class={`with-mark state-${device.state}`}>
                      <StateMark state={device.state} />
                      {t(`state.${device.state}`)}
                    </span>
                  </td>
                  <td data-label={t('device.values')}>
                    {device.fault
                      ? faultWord(device.fault)
                      : gistOf(device.values) || t('unit.none')}
                  </td>
                  <td data-label={t('device.heard')}>
                    <Age at={device.at} ago />
                  </td>
                </tr>
              ))}
            </tbody>
          </table>
        </div>
      )}
      {cursor !== null && (
        <p class="panel-foot">
          <button type="button" class="button" onClick={() => fetchPage(cursor)}>
            {t('action.more')}
          </button>
        </p>
      )}
    </Dialog>
  );
}
