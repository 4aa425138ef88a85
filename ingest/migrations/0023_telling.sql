-- SPDX-License-Identifier: Apache-2.0
-- A webhook's secret can be replaced; kept answers hold no secrets; what was told is read by index;
-- gateways have a life.

-- Secrets before the present one, which sign beside it until their time is over.
CREATE TABLE webhook_former_secret (
    webhook uuid NOT NULL REFERENCES notification_channel (id),
    secret text NOT NULL,
    until timestamptz NOT NULL,
    PRIMARY KEY (webhook, secret)
);
CREATE INDEX webhook_former_secret_until ON webhook_former_secret (until);

-- What people did to webhooks: each version has its row. Neither addresses nor secrets.
CREATE TABLE webhook_history (
    webhook uuid NOT NULL REFERENCES notification_channel (id),
    version int NOT NULL,
    at timestamptz NOT NULL,
    actor text NOT NULL,
    action text NOT NULL CHECK (action IN ('made', 'changed', 'secret_replaced', 'removed')),
    params jsonb NOT NULL DEFAULT '{}',
    PRIMARY KEY (webhook, version)
);
INSERT INTO webhook_history (webhook, version, at, actor, action)
SELECT id, 1, created_at, created_by, 'made' FROM notification_channel WHERE kind = 'webhook';

-- Answers that were kept so far may show a webhook's secret.
DELETE FROM idempotency WHERE position('"whsec_'::bytea IN body) > 0;
-- How many answers are kept for somebody, the latest first.
CREATE INDEX idempotency_principal ON idempotency (principal, at);

-- The log of what was told, the latest first: of a community, of a channel, and what did not arrive.
CREATE INDEX notification_message_community ON notification_message (community, created_at, id);
CREATE INDEX notification_message_channel ON notification_message (channel, created_at, id);
CREATE INDEX notification_message_not_sent ON notification_message (created_at, id)
    WHERE state <> 'sent';

-- Gateways live as devices do. What is planned or retired may not speak, and nothing is raised of it.
ALTER TABLE gateway
    ADD COLUMN life text NOT NULL DEFAULT 'in_service'
        CHECK (life IN ('planned', 'installed', 'in_service', 'maintenance', 'retired'));

-- A gateway as it was registered; the open version is how it is. A first one has no beginning.
CREATE TABLE gateway_version (
    gateway text NOT NULL REFERENCES gateway (gateway) ON DELETE CASCADE,
    during tstzrange NOT NULL CHECK (NOT isempty(during)),
    community text NOT NULL,
    life text NOT NULL,
    PRIMARY KEY (gateway, during)
);
CREATE UNIQUE INDEX gateway_version_open ON gateway_version (gateway) WHERE upper_inf(during);
INSERT INTO gateway_version (gateway, during, community, life)
SELECT gateway, '(,)', community, life FROM gateway;

-- By row and column: heartbeats, which are written every few seconds, must not pay for it.
CREATE FUNCTION keep_gateway_history() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    since timestamptz;
BEGIN
    IF TG_OP = 'UPDATE' THEN
        SELECT greatest(clock_timestamp(), lower(v.during)) INTO STRICT since
        FROM gateway_version AS v WHERE v.gateway = NEW.gateway AND upper_inf(v.during);
        -- One that would last no time is replaced instead of closed.
        DELETE FROM gateway_version AS v
        WHERE v.gateway = NEW.gateway AND upper_inf(v.during) AND lower(v.during) = since;
        UPDATE gateway_version AS v SET during = tstzrange(lower(v.during), since)
        WHERE v.gateway = NEW.gateway AND upper_inf(v.during);
    END IF;
    INSERT INTO gateway_version (gateway, during, community, life)
    VALUES (NEW.gateway, tstzrange(since, NULL), NEW.community, NEW.life);
    RETURN NULL;
END $$;
CREATE TRIGGER gateway_history_insert AFTER INSERT ON gateway
    FOR EACH ROW EXECUTE FUNCTION keep_gateway_history();
CREATE TRIGGER gateway_history_update AFTER UPDATE OF community, life ON gateway
    FOR EACH ROW WHEN ((OLD.community, OLD.life) IS DISTINCT FROM (NEW.community, NEW.life))
    EXECUTE FUNCTION keep_gateway_history();
