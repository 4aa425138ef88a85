-- SPDX-License-Identifier: Apache-2.0
-- Final numbers of every area with all that lay below it, by day and by month, so that a city's
-- month is one row and not one of each community's days. Kept by triggers on what they are sums
-- of, so nobody can change a day past its sums. The tree is that of the day: an area that moves
-- leaves its past where it was.

CREATE TABLE area_sum (
    area text NOT NULL,
    parent text NOT NULL,               -- what it lay directly in that day; '': nothing
    indicator text NOT NULL,
    kind text NOT NULL,
    span text NOT NULL CHECK (span IN ('day', 'month')),
    first date NOT NULL,                -- the day, or the month's first
    last date NOT NULL,                 -- the latest day in it
    good bigint NOT NULL,
    bad bigint NOT NULL,
    total bigint NOT NULL,
    subjects int NOT NULL,              -- of a month the most on any one day
    excluded jsonb NOT NULL,
    revision int NOT NULL,              -- the highest in it
    rule_version int NOT NULL,
    computed_at timestamptz NOT NULL,   -- the latest
    PRIMARY KEY (area, indicator, span, first, kind, parent)
) WITH (fillfactor = 70);
CREATE INDEX area_sum_parent ON area_sum (parent, indicator, span, first);

-- What is not settled yet is read as it stands.
CREATE INDEX area_day_provisional ON area_day (area, indicator, day) WHERE status = 'provisional';

CREATE FUNCTION plus_by_reason(one jsonb, other jsonb) RETURNS jsonb
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
BEGIN
    -- The common cases, and the cheap ones.
    IF other = '{}' THEN
        RETURN one;
    ELSIF one = '{}' THEN
        RETURN other;
    END IF;
    RETURN (
        SELECT coalesce(jsonb_object_agg(key, amount) FILTER (WHERE amount <> 0), '{}')
        FROM (
            SELECT key, sum(value::bigint)::bigint AS amount
            FROM (SELECT * FROM jsonb_each_text(one)
                  UNION ALL SELECT * FROM jsonb_each_text(other)) AS reasons
            GROUP BY key
        ) AS added
    );
END $$;
CREATE AGGREGATE sum_by_reason(jsonb) (sfunc = plus_by_reason, stype = jsonb, initcond = '{}');

-- Where areas lay, day by day, as when the day ended: a change at noon is one of that day. Without a
-- gap, and no day twice, where a time zone was corrected: a version lasts until the day on which
-- the next one begins.
CREATE VIEW area_lay AS
SELECT area, path, since,
       lead(since, 1, 'infinity') OVER (PARTITION BY area ORDER BY lower(during) NULLS FIRST)
           AS until
FROM (
    SELECT area, path, during,
           coalesce((lower(during) AT TIME ZONE time_zone)::date, '-infinity') AS since
    FROM area_version
) AS version;

-- Where an area lay on a day: itself and all above it, each with what that lay in.
CREATE FUNCTION places_on(own text, on_day date, OUT area text, OUT parent text) RETURNS SETOF record
LANGUAGE sql STABLE ROWS 4 AS $$
    SELECT replace(path[level], '_', '-'), coalesce(replace(path[level - 1], '_', '-'), '')
    FROM (
        SELECT string_to_array(l.path::text, '.') AS path
        FROM area_lay AS l
        WHERE l.area = own AND l.since <= on_day AND on_day < l.until
    ) AS stood, generate_subscripts(stood.path, 1) AS level
$$;

CREATE FUNCTION add_to_sums(come area_day[], gone area_day[]) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    WITH changed AS (
        SELECT 1 AS sign, * FROM unnest(come)
        UNION ALL SELECT -1, * FROM unnest(gone)
    ), place AS MATERIALIZED (
        SELECT c.area AS own, c.day, p.area, p.parent
        FROM (SELECT DISTINCT area, day FROM changed) AS c, places_on(c.area, c.day) AS p
    ), delta AS (
        SELECT p.area, p.parent, c.indicator, c.kind, c.day,
               sum(sign * good)::bigint AS good, sum(sign * bad)::bigint AS bad,
               sum(sign * total)::bigint AS total, sum(sign * subjects)::int AS subjects,
               max(revision) AS revision, max(rule_version) AS rule_version,
               max(computed_at) AS computed_at
        FROM changed AS c JOIN place AS p ON p.own = c.area AND p.day = c.day
        GROUP BY p.area, p.parent, c.indicator, c.kind, c.day
    ), left_out AS (
        SELECT area, indicator, kind, day, jsonb_object_agg(reason, amount) AS excluded
        FROM (
            SELECT p.area, c.indicator, c.kind, c.day, e.key AS reason,
                   sum(sign * e.value::bigint)::bigint AS amount
            FROM changed AS c JOIN place AS p ON p.own = c.area AND p.day = c.day,
                 jsonb_each_text(c.excluded) AS e
            WHERE c.excluded <> '{}'
            GROUP BY p.area, c.indicator, c.kind, c.day, e.key
        ) AS reasons
        WHERE amount <> 0
        GROUP BY area, indicator, kind, day
    )
    INSERT INTO area_sum AS s (area, parent, indicator, kind, span, first, last, good, bad, total,
                               subjects, excluded, revision, rule_version, computed_at)
    SELECT d.area, d.parent, d.indicator, d.kind, 'day', d.day, d.day, d.good, d.bad, d.total,
           d.subjects, coalesce(l.excluded, '{}'), d.revision, d.rule_version, d.computed_at
    FROM delta AS d
    LEFT JOIN left_out AS l USING (area, indicator, kind, day)
    ON CONFLICT (area, indicator, span, first, kind, parent) DO UPDATE SET
        good = s.good + excluded.good, bad = s.bad + excluded.bad,
        total = s.total + excluded.total, subjects = s.subjects + excluded.subjects,
        excluded = plus_by_reason(s.excluded, excluded.excluded),
        revision = greatest(s.revision, excluded.revision),
        rule_version = greatest(s.rule_version, excluded.rule_version),
        computed_at = greatest(s.computed_at, excluded.computed_at);

    WITH changed AS (
        SELECT area, indicator, day FROM unnest(come)
        UNION SELECT area, indicator, day FROM unnest(gone)
    ), touched AS (
        SELECT DISTINCT p.area, c.indicator, date_trunc('month', c.day)::date AS month
        FROM changed AS c, places_on(c.area, c.day) AS p
    )
    INSERT INTO area_sum (area, parent, indicator, kind, span, first, last, good, bad, total,
                          subjects, excluded, revision, rule_version, computed_at)
    SELECT s.area, s.parent, s.indicator, s.kind, 'month', t.month, max(s.last),
           sum(s.good), sum(s.bad), sum(s.total), max(s.subjects),
           coalesce(sum_by_reason(s.excluded) FILTER (WHERE s.excluded <> '{}'), '{}'),
           max(s.revision), max(s.rule_version), max(s.computed_at)
    FROM touched AS t
    JOIN area_sum AS s ON s.area = t.area AND s.indicator = t.indicator AND s.span = 'day'
        AND s.first >= t.month AND s.first < (t.month + interval '1 month')::date
    GROUP BY s.area, s.parent, s.indicator, s.kind, t.month
    ON CONFLICT (area, indicator, span, first, kind, parent) DO UPDATE SET
        last = excluded.last, good = excluded.good, bad = excluded.bad, total = excluded.total,
        subjects = excluded.subjects, excluded = excluded.excluded, revision = excluded.revision,
        rule_version = excluded.rule_version, computed_at = excluded.computed_at;
END $$;

CREATE FUNCTION keep_area_sums() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    come area_day[];
    gone area_day[];
BEGIN
    IF TG_OP <> 'DELETE' THEN
        come := (SELECT array_agg(d::area_day) FROM after_rows AS d WHERE d.status = 'final');
    END IF;
    IF TG_OP <> 'INSERT' THEN
        gone := (SELECT array_agg(d::area_day) FROM before_rows AS d WHERE d.status = 'final');
    END IF;
    IF come IS NOT NULL OR gone IS NOT NULL THEN
        PERFORM add_to_sums(come, gone);
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER area_sum_insert AFTER INSERT ON area_day
    REFERENCING NEW TABLE AS after_rows FOR EACH STATEMENT EXECUTE FUNCTION keep_area_sums();
CREATE TRIGGER area_sum_update AFTER UPDATE ON area_day
    REFERENCING OLD TABLE AS before_rows NEW TABLE AS after_rows
    FOR EACH STATEMENT EXECUTE FUNCTION keep_area_sums();
CREATE TRIGGER area_sum_delete AFTER DELETE ON area_day
    REFERENCING OLD TABLE AS before_rows FOR EACH STATEMENT EXECUTE FUNCTION keep_area_sums();

-- Month by month: one array does not hold a city's years.
DO $$
DECLARE
    month date;
BEGIN
    FOR month IN SELECT DISTINCT date_trunc('month', day)::date FROM area_day LOOP
        PERFORM add_to_sums(array_agg(d), NULL) FROM area_day AS d
        WHERE d.status = 'final' AND d.day >= month AND d.day < month + interval '1 month'
        HAVING count(*) > 0;
    END LOOP;
END $$;

-- Which nights of an area still run.
CREATE INDEX community_day_provisional ON community_day (community, domain, day)
    WHERE status = 'provisional';
