// SPDX-License-Identifier: Apache-2.0
import stored from '../../../../ingest/locales/zh-CN.json';
import shown from '../../../locales/zh-CN.json';
import indicators from './indicators.zh-CN.json';

export default { ...stored, ...shown, ...indicators };
