-- SPDX-License-Identifier: Apache-2.0
-- What areas say of rules, every version of it, and what rules remember between readings.

ALTER TABLE installation
    ADD COLUMN rules_revision bigint NOT NULL DEFAULT 1,
    -- What the configuration of ingest says, as it noted when it started.
    ADD COLUMN rules_configured jsonb NOT NULL DEFAULT '{}';

-- The latest version of a rule in an area is what the area says; earlier ones tell who said what.
CREATE TABLE rule_version (
    rule text NOT NULL CHECK (rule ~ '^[a-z]+\.[a-z0-9][a-z0-9_-]{0,47}$'),
    area text NOT NULL REFERENCES area (area),
    version int NOT NULL CHECK (version > 0),
    revision bigint NOT NULL,          -- of all rules: what was in force when
    definition jsonb,                  -- the parameters it sets; null: back to what is inherited
    author text NOT NULL,
    reason text NOT NULL,
    at timestamptz NOT NULL,
    PRIMARY KEY (rule, area, version)
);
CREATE INDEX rule_version_revision ON rule_version (revision);
CREATE FUNCTION rule_version_is_kept() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'a version of a rule is never changed or deleted';
END $$;
CREATE TRIGGER rule_version_is_kept BEFORE UPDATE OR DELETE ON rule_version
    FOR EACH ROW EXECUTE FUNCTION rule_version_is_kept();

-- Up to which revision a writer cleared what changed rules had standing.
CREATE TABLE rules_followed (
    member text PRIMARY KEY,
    revision bigint NOT NULL
);

-- What a restart must know of a rule on one subject: what its condition remembers, which delay
-- runs. Written in the transaction of what made it so.
CREATE TABLE rule_memory (
    rule text NOT NULL,
    subject text NOT NULL,             -- a device; 'gateway:' and one; 'cell:' and an area
    key text NOT NULL DEFAULT '',      -- as an occurrence's
    lane text NOT NULL CHECK (lane IN ('telemetry', 'event')),
    memory jsonb,                      -- the condition's own
    since timestamptz,                 -- since when a delay runs, device time; null: none does
    ending boolean NOT NULL DEFAULT false,  -- it is the off-delay
    known_until timestamptz,           -- what it waits for is known to stay so until; null: for ever
    params jsonb NOT NULL DEFAULT '{}',  -- for the alert that is still to come
    asked timestamptz,                 -- when time alone decided something, since the last reading
    PRIMARY KEY (rule, subject, key)
);
