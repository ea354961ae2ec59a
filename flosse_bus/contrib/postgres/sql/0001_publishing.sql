-- Publishing from transactions, what watches the tables, and settings of the functions.

CREATE FUNCTION flosse_bus_channel(_bus text) RETURNS text LANGUAGE sql IMMUTABLE AS $$
    SELECT 'flosse_bus_' || left(md5(_bus), 16)
$$
--
-- Put events into the outbox: they are published if and when this transaction commits. Those whose
-- key has been published with, or is by another transaction that commits first, are left out. A key
-- occurs once here at most; it is kept for "_keep" seconds.
CREATE FUNCTION flosse_bus_enlist(
    _bus text, _topics text[], _events text[], _bodies bytea[], _raws boolean[],
    _keys text[] DEFAULT NULL, _keep double precision DEFAULT NULL
) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF _keys IS NULL THEN
        INSERT INTO flosse_bus_event (bus, topic, event, body, raw, xact)
        SELECT _bus, n.topic, n.event, n.body, n.raw, pg_current_xact_id()
        FROM unnest(_topics, _events, _bodies, _raws)
            WITH ORDINALITY n(topic, event, body, raw, nth)
        ORDER BY n.nth;
    ELSE
        PERFORM flosse_bus_claim(_bus, _keys);
        WITH given AS MATERIALIZED (
            SELECT n.* FROM unnest(_topics, _events, _bodies, _raws, _keys)
                WITH ORDINALITY n(topic, event, body, raw, key, nth)
        ), claimed AS (
            INSERT INTO flosse_bus_key AS k (bus, key, until, raw, topic, event, body)
            SELECT _bus, g.key, clock_timestamp() + make_interval(secs => _keep), g.raw, g.topic,
                g.event, g.body
            FROM given g
            WHERE g.key IS NOT NULL AND NOT EXISTS (
                -- Looked for first: a conflict would lock its row, which giving positions may want.
                SELECT FROM flosse_bus_key k WHERE k.bus = _bus AND k.key = g.key
                    AND (k.position IS NULL OR k.until > clock_timestamp())
            )
            ON CONFLICT (bus, key) DO UPDATE SET
                until = excluded.until, position = NULL, previous = NULL, published_at = NULL,
                raw = excluded.raw, topic = excluded.topic, epoch = NULL, event = excluded.event,
                body = excluded.body
            WHERE k.position IS NOT NULL AND k.until <= clock_timestamp()
            RETURNING k.key
        )
        INSERT INTO flosse_bus_event (bus, topic, event, body, raw, key, xact)
        SELECT _bus, g.topic, g.event, g.body, g.raw, g.key, pg_current_xact_id() FROM given g
        WHERE g.key IS NULL OR g.key IN (SELECT c.key FROM claimed c)
        ORDER BY g.nth;
    END IF;
    PERFORM pg_notify(flosse_bus_channel(_bus), t.topic)
    FROM (SELECT DISTINCT n.topic FROM unnest(_topics) n(topic)) t;
END
$$
--
-- Publish from SQL, if and when this transaction commits. A JSON string goes out as it is.
CREATE FUNCTION flosse_bus_publish(
    topic text, data jsonb, event text DEFAULT NULL, bus text DEFAULT 'flosse'
) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    is_raw boolean := coalesce(jsonb_typeof(data) = 'string', false);
    content text := CASE WHEN is_raw THEN data #>> '{}' ELSE coalesce(data::text, 'null') END;
BEGIN
    IF (topic COLLATE "C" ~ '^[A-Za-z0-9_.:@/-]{1,255}$') IS NOT TRUE THEN
        RAISE EXCEPTION 'flosse_bus_publish: % is not a topic', quote_nullable(left(topic, 300))
            USING ERRCODE = 'invalid_parameter_value',
            HINT = 'A topic is 1-255 ASCII letters, digits and _ - : . @ / .';
    ELSIF event IS NOT NULL AND (
        length(event) NOT BETWEEN 1 AND 255 OR event ~ '[\r\n]'
        OR event LIKE 'stream-%' OR event IN ('open', 'error')
    ) THEN
        RAISE EXCEPTION 'flosse_bus_publish: % cannot name an event', quote_literal(event)
            USING ERRCODE = 'invalid_parameter_value',
            HINT = '1-255 characters without CR or LF; not open, error, or what begins with stream-.';
    ELSIF (bus COLLATE "C" ~ '^[A-Za-z0-9_.:-]{1,64}$') IS NOT TRUE THEN
        RAISE EXCEPTION 'flosse_bus_publish: % is not the KEY_PREFIX of a bus', quote_nullable(bus)
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    PERFORM flosse_bus_enlist(
        bus, ARRAY[topic], ARRAY[event], ARRAY[convert_to(content, 'UTF8')], ARRAY[is_raw]
    );
END
$$
--
CREATE FUNCTION flosse_bus_truncated() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify(flosse_bus_channel(l.bus), '') FROM flosse_bus_log l;
    DELETE FROM flosse_bus_log;
    DELETE FROM flosse_bus_key;  -- a new log knows none
    RETURN NULL;
END
$$
--
CREATE TRIGGER flosse_bus_truncated BEFORE TRUNCATE ON flosse_bus_event
    FOR EACH STATEMENT EXECUTE FUNCTION flosse_bus_truncated()
--
CREATE TRIGGER flosse_bus_truncated BEFORE TRUNCATE ON flosse_bus_topic
    FOR EACH STATEMENT EXECUTE FUNCTION flosse_bus_truncated()
--
-- Functions find the tables whatever the search_path of the session; and no plan that was made
-- while the tables were empty may go on reading them from end to end when they are not.
DO $do$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY[
        'append', 'append_many', 'settle', 'enlist', 'publish', 'listen', 'read', 'flush',
        'truncated'
    ] LOOP
        EXECUTE format(
            'ALTER FUNCTION %I.%I SET search_path = %I, pg_temp',
            current_schema(), 'flosse_bus_' || name, current_schema()
        );
    END LOOP;
    -- Whoever saves rows does not wait for long for the log: for a key, or while it is rewritten.
    EXECUTE format(
        'ALTER FUNCTION %I.flosse_bus_enlist SET lock_timeout = %L', current_schema(), '4s'
    );
    -- What comes in one call is sorted in memory.
    EXECUTE format(
        'ALTER FUNCTION %I.flosse_bus_append_many SET work_mem = %L', current_schema(), '64MB'
    );
    FOREACH name IN ARRAY ARRAY['append', 'append_many', 'settle', 'listen', 'read'] LOOP
        EXECUTE format(
            'ALTER FUNCTION %I.%I SET enable_seqscan = off',
            current_schema(), 'flosse_bus_' || name
        );
        EXECUTE format(
            'ALTER FUNCTION %I.%I SET enable_bitmapscan = off',
            current_schema(), 'flosse_bus_' || name
        );
    END LOOP;
END
$do$
