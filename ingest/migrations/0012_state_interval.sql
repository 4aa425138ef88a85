-- SPDX-License-Identifier: Apache-2.0
-- Latest states that are written less often than readings come, and how their table is kept.

-- Since when states of a lane may be behind the readings: those of earlier instants are stored, as
-- is the light that they settled. NULL: all are. After a crash, readings since then are looked
-- through once.
ALTER TABLE ingest_lane ADD COLUMN held_since timestamptz;

-- Every update of a state is HOT and makes room for itself: who updates a page next prunes what the
-- last one left there (fillfactor 50 is room for a version of each row), no vacuum needed. So a
-- healthy table has about as many dead rows as live ones at any time. With a limit below that, a
-- vacuum begins as soon as the last one has ended, reads the whole table, and finds nothing that
-- the next flush would not prune. Two dead rows for each live one say that pruning is held up (a
-- transaction open for long, rows moved to other pages), and that is what a vacuum is wanted for.
-- Nobody asks for statistics of what readings change, so they are renewed as rarely.
ALTER TABLE device_state SET (
    autovacuum_vacuum_scale_factor = 2,
    autovacuum_analyze_scale_factor = 5
);
