-- SPDX-License-Identifier: Apache-2.0
-- What the delivery promise needs beside storing: what was refused counted and replayable, events
-- that contradict each other noticed, a message that ends the process found.

-- Refusals by gateway, day and reason; raw bytes are kept for the first ones only.
CREATE TABLE dead_letter_count (
    day date NOT NULL,
    gateway text NOT NULL,  -- '' where none could be told
    reason text NOT NULL,
    count bigint NOT NULL,
    PRIMARY KEY (day, gateway, reason)
);
ALTER TABLE dead_letter
    ADD COLUMN lane text NOT NULL DEFAULT 'telemetry',
    ADD COLUMN replay_asked_at timestamptz,
    ADD COLUMN replayed_at timestamptz,
    ADD COLUMN replay_result text;
CREATE INDEX dead_letter_replay ON dead_letter (id)
    WHERE replay_asked_at IS NOT NULL AND replayed_at IS NULL;

-- The content of each numbered event, so that another content under its number is noticed.
CREATE TABLE event_digest (
    stream_id bigint NOT NULL REFERENCES gateway_stream (id),
    seq bigint NOT NULL,
    sha256 bytea NOT NULL,
    PRIMARY KEY (stream_id, seq)
);

-- Whether a lane's last process ended in order, and how often a message was begun since.
CREATE TABLE ingest_lane (
    lane text PRIMARY KEY,
    clean boolean NOT NULL
);
CREATE TABLE ingest_attempt (
    lane text NOT NULL,
    sha256 bytea NOT NULL,
    attempts int NOT NULL,
    PRIMARY KEY (lane, sha256)
);

-- How long the gateway's outbox could still take in what is measured.
ALTER TABLE gateway
    ADD COLUMN outbox_bytes bigint,
    ADD COLUMN outbox_limit_bytes bigint,
    ADD COLUMN outbox_hours double precision;
