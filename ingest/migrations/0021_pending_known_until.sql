-- SPDX-License-Identifier: Apache-2.0
-- Until when a condition whose delay runs is known to be so: a restart must not know it for longer.

-- NULL: written by an older release; then it is taken from the device's latest reading.
ALTER TABLE alert_pending ADD COLUMN known_until timestamptz;
