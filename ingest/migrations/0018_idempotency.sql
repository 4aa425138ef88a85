-- SPDX-License-Identifier: Apache-2.0
-- Answers to requests that carried an Idempotency-Key: asked again, the same is told for a day.

CREATE TABLE idempotency (
    principal text NOT NULL,           -- who asked: a person or a service, one name, one actor
    key text NOT NULL,                 -- as the client chose it
    request bytea NOT NULL,            -- SHA-256 of all that was asked
    at timestamptz NOT NULL,
    status int NOT NULL,
    headers jsonb NOT NULL,
    body bytea NOT NULL,
    PRIMARY KEY (principal, key)
);
CREATE INDEX idempotency_at ON idempotency (at);
