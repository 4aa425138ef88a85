// SPDX-License-Identifier: Apache-2.0
import { useState } from 'preact/hooks';
import type { Gateway } from '../../api/types';
import { formatNumber } from '../../format';
import { language, named, t } from '../../i18n';
import { StateMark } from '../../ui/icons';
import { Age } from '../../ui/time';
import { areaName } from '../../ui/words';
import { sortedGateways } from './worst';

const FEW = 8;

export function Gateways({ items }: { items: readonly Gateway[] }) {
  const [all, setAll] = useState(false);
  const silent = items.filter((gateway) => gateway.silent).length;
  const sorted = sortedGateways(items);
  const shown = all ? sorted : sorted.slice(0, Math.max(FEW, silent));
  return (
    <section class="panel" data-testid="gateways" aria-labelledby="gateways-name">
      <header class="panel-head">
        <h2 id="gateways-name">{t('gateway.title')}</h2>
        {items.length > 0 && (
          <span class={silent > 0 ? 'state-fault strong' : 'muted'}>
            {silent > 0
              ? t('gateway.silent_of', { silent, count: items.length })
              : t('gateway.all_heard', { count: items.length })}
          </span>
        )}
      </header>
      {items.length === 0 ? (
        <p class="muted panel-text">{t('gateway.none')}</p>
      ) : (
        <div class="table-wrap">
          <table class="table cards" aria-labelledby="gateways-name">
            <thead>
              <tr>
                <th scope="col">{t('gateway.gateway')}</th>
                <th scope="col">{t('gateway.community')}</th>
                <th scope="col">{t('gateway.link')}</th>
                <th scope="col">{t('gateway.last_seen')}</th>
                <th scope="col" class="num">
                  {t('gateway.outbox')}
                </th>
                <th scope="col">{t('gateway.clock')}</th>
                <th scope="col">{t('gateway.version')}</th>
              </tr>
            </thead>
            <tbody>
              {shown.map((gateway) => (
                <Row key={gateway.gateway} gateway={gateway} />
              ))}
            </tbody>
          </table>
        </div>
      )}
      {sorted.length > shown.length && (
        <p class="panel-foot">
          <button type="button" class="link" onClick={() => setAll(true)}>
            {t('gateway.show_all', { count: sorted.length })}
          </button>
        </p>
      )}
    </section>
  );
}

function Row({ gateway }: { gateway: Gateway }) {
  const { outbox_messages: waiting, outbox_hours: hours, clock } = gateway;
  return (
    <tr
      class={gateway.silent ? 'attention-row' : undefined}
      data-testid="gateway"
      data-gateway={gateway.gateway}
      data-silent={gateway.silent}
    >
      <th scope="row">
        {gateway.name ?? gateway.gateway}
        {gateway.name && <span class="muted small block">{gateway.gateway}</span>}
        {gateway.life !== 'in_service' && (
          <span class="muted small block">{t(`life.${gateway.life}`)}</span>
        )}
      </th>
      <td data-label={t('gateway.community')}>{areaName(gateway.community)}</td>
      <td data-label={t('gateway.link')}>
        <span class={`with-mark ${gateway.silent ? 'state-fault strong' : ''}`}>
          <StateMark state={gateway.silent ? 'offline' : 'normal'} />
          {gateway.silent ? t('gateway.silent') : t('gateway.heard')}
        </span>
      </td>
      <td data-label={t('gateway.last_seen')}>
        <Age at={gateway.last_seen_at} ago />
      </td>
      <td class="num" data-label={t('gateway.outbox')}>
        {waiting === null ? (
          t('unit.none')
        ) : (
          <span class={waiting > 100 ? 'strong' : undefined}>
            {t('gateway.messages', { count: waiting, n: formatNumber(waiting, language.value) })}
          </span>
        )}
        {hours !== null && (
          <span class={hours < 24 ? 'state-fault small block' : 'muted small block'}>
            {t('gateway.capacity', {
              count: Math.floor(hours),
              n: formatNumber(Math.floor(hours), language.value),
            })}
          </span>
        )}
      </td>
      <td data-label={t('gateway.clock')}>
        <span class={clock === 'unsynchronized' ? 'state-fault strong' : undefined}>
          {named(`clock.${clock}`, clock)}
        </span>
      </td>
      <td class="card-hidden" data-label={t('gateway.version')}>
        {gateway.version ?? t('unit.none')}
      </td>
    </tr>
  );
}
