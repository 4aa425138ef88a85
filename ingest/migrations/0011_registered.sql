-- SPDX-License-Identifier: Apache-2.0
-- Days of the past stay what they were, whatever is registered later.

-- A day that ended before a device was registered, and in which it was not in service, does not
-- know it: else every new lamp would make all finished days another number. Of those registered
-- before now nobody knows when.
ALTER TABLE device ADD COLUMN registered_at timestamptz NOT NULL DEFAULT '-infinity';
ALTER TABLE device ALTER COLUMN registered_at SET DEFAULT now();

-- Days computed before there were times and roads have none, and took silent gates and bins for such
-- of which nothing was to be told: they are computed once more.
UPDATE community_day
SET dirty = coalesce(dirty, 'definition'), marks = marks + 1
WHERE status = 'final' AND domain IN ('lighting', 'refuse', 'access')
  AND computed_at < (SELECT applied_at FROM schema_migration WHERE version = 9);
