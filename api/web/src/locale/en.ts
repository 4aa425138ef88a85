// SPDX-License-Identifier: Apache-2.0
import stored from '../../../../ingest/locales/en.json';
import shown from '../../../locales/en.json';
import indicators from './indicators.en.json';

export default { ...stored, ...shown, ...indicators };
