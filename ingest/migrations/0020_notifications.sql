-- SPDX-License-Identifier: Apache-2.0
-- Who is told of alerts, by what, when, and whether it arrived.

-- The history of alerts is the outbox: a row is written with the change it tells of, and is told by
-- itself, not by its number. What commits late is found late and never passed over.
ALTER TABLE alert_history ADD COLUMN told boolean NOT NULL DEFAULT true;  -- what is there already
ALTER TABLE alert_history ALTER COLUMN told SET DEFAULT false;
CREATE INDEX alert_history_untold ON alert_history (id) WHERE NOT told;

-- Where people and machines are told. Addresses are secrets: they are never given out.
CREATE TABLE notification_channel (
    id uuid PRIMARY KEY,
    kind text NOT NULL CHECK (kind IN ('email', 'sms', 'url', 'webhook')),
    name text NOT NULL,
    address text NOT NULL,
    enabled boolean NOT NULL DEFAULT true,
    -- A person's own, or a webhook of an area.
    username text REFERENCES person (username),
    area text REFERENCES area (area),
    secret text,                       -- what a webhook's messages are signed with
    duress boolean NOT NULL DEFAULT false,  -- a webhook that may learn of alarms under threat
    created_at timestamptz NOT NULL,
    created_by text NOT NULL,
    version int NOT NULL DEFAULT 1,
    removed_at timestamptz,            -- the log of what it was told stays
    CHECK ((kind = 'webhook') = (area IS NOT NULL)),
    CHECK ((kind = 'webhook') = (secret IS NOT NULL)),
    CHECK ((kind = 'webhook') = (username IS NULL))
);
CREATE INDEX notification_channel_person ON notification_channel (username)
    WHERE removed_at IS NULL;
CREATE INDEX notification_channel_area ON notification_channel (area) WHERE removed_at IS NULL;

-- What a person wants; no row: everything, at once.
CREATE TABLE notification_preference (
    username text PRIMARY KEY REFERENCES person (username) ON DELETE CASCADE,
    wanted jsonb NOT NULL,
    version int NOT NULL DEFAULT 1
);

-- Whom a severity concerns in an area and below, at some hours of the week, step by step.
CREATE TABLE notification_chain (
    id uuid PRIMARY KEY,
    area text NOT NULL REFERENCES area (area),
    chain jsonb NOT NULL,
    changed_at timestamptz NOT NULL,
    changed_by text NOT NULL,
    version int NOT NULL DEFAULT 1
);
CREATE INDEX notification_chain_area ON notification_chain (area);

-- An alert that is being told step by step: where that stands. Timers are rows.
CREATE TABLE notification_escalation (
    alert uuid PRIMARY KEY REFERENCES alert (id),
    chain jsonb NOT NULL,              -- as it was when it began
    started_at timestamptz NOT NULL,
    position int NOT NULL,             -- the turn that comes next
    reached boolean NOT NULL DEFAULT false,  -- somebody was, or did not want to be
    hurry boolean NOT NULL DEFAULT false,    -- nobody was: the next turn is not waited for
    next_at timestamptz NOT NULL
);
CREATE INDEX notification_escalation_due ON notification_escalation (next_at);

-- One message to one channel: what it says, and how sending it went.
CREATE TABLE notification_message (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    key uuid NOT NULL UNIQUE,          -- the same at each attempt: whoever gets it twice can tell
    channel uuid NOT NULL REFERENCES notification_channel (id),
    community text REFERENCES area (area),
    kind text NOT NULL CHECK (kind IN ('raised', 'repeated', 'cleared', 'digest', 'test')),
    content jsonb NOT NULL,
    state text NOT NULL DEFAULT 'waiting'
        CHECK (state IN ('waiting', 'sending', 'sent', 'given_up', 'unheard')),
    created_at timestamptz NOT NULL,
    next_at timestamptz NOT NULL,
    attempts int NOT NULL DEFAULT 0,
    unsure boolean NOT NULL DEFAULT false,  -- an attempt ended without saying whether it arrived
    finished_at timestamptz,
    error text                         -- a code; never an address
);
-- Channel by channel the oldest goes first, the others wait for it.
CREATE INDEX notification_message_open ON notification_message (channel, id)
    WHERE finished_at IS NULL;
CREATE INDEX notification_message_due ON notification_message (next_at) WHERE finished_at IS NULL;
CREATE INDEX notification_message_recent ON notification_message (channel, community, created_at);
CREATE INDEX notification_message_created ON notification_message (created_at, id);

-- What one channel is to be told of one alert; told when it is part of a message.
CREATE TABLE notification (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    alert uuid NOT NULL REFERENCES alert (id),
    channel uuid NOT NULL REFERENCES notification_channel (id),
    community text NOT NULL REFERENCES area (area),
    kind text NOT NULL CHECK (kind IN ('raised', 'repeated', 'cleared')),
    digest boolean NOT NULL DEFAULT false,
    created_at timestamptz NOT NULL,
    due_at timestamptz NOT NULL,
    message bigint REFERENCES notification_message (id),
    cancelled_at timestamptz           -- it was over before anybody was told
);
CREATE INDEX notification_waiting ON notification (due_at)
    WHERE message IS NULL AND cancelled_at IS NULL;
CREATE INDEX notification_alert ON notification (alert, id);
CREATE INDEX notification_message_of ON notification (message);
