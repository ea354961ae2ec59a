-- Publishing from transactions, what watches the tables, and settings of the functions.

CREATE FUNCTION flosse_bus_channel(_bus text) RETURNS text LANGUAGE sql IMMUTABLE AS $$
    SELECT 'flosse_bus_' || left(md5(_bus), 16)
$$
--
-- Have some keys, as flosse_bus_claim does, but wait for other transactions that have them: as long
-- as the lock_timeout of flosse_bus_enlist, for each.
CREATE FUNCTION flosse_bus_await(_bus text, _keys text[]) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    held text;
BEGIN
    LOOP
        held := flosse_bus_claim(_bus, _keys);
        EXIT WHEN held IS NULL;
        BEGIN
            PERFORM pg_advisory_xact_lock(1179407188, hashtext(_bus || ' ' || held));
        EXCEPTION WHEN lock_not_available THEN
            RAISE EXCEPTION 'flosse_bus: another transaction has published with the idempotency key'
                ' %, and has not ended in time', quote_literal(held)
                USING ERRCODE = 'lock_not_available',
                HINT = 'Run this transaction again, from its start.';
        END;
    END LOOP;
END
$$
--
-- Put events into the outbox: they are published if and when this transaction commits. Those whose
-- key has been published with, or is by another transaction that commits first, are left out; a key
-- is kept for "_keep" seconds.
CREATE FUNCTION flosse_bus_enlist(
    _bus text, _topics text[], _events text[], _bodies bytea[], _raws boolean[],
    _keys text[] DEFAULT NULL, _keep double precision DEFAULT NULL
) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    head bigint;
    one record;
BEGIN
    IF _keys IS NULL THEN
        INSERT INTO flosse_bus_event (bus, topic, event, body, raw, xact)
        VALUES (_bus, _topics[1], _events[1], _bodies[1], _raws[1], pg_current_xact_id())
        RETURNING id INTO head;
        IF cardinality(_topics) > 1 THEN
            INSERT INTO flosse_bus_event (bus, topic, event, body, raw, xact, call)
            SELECT _bus, n.topic, n.event, n.body, n.raw, pg_current_xact_id(), head
            FROM unnest(_topics, _events, _bodies, _raws)
                WITH ORDINALITY n(topic, event, body, raw, nth)
            WHERE n.nth > 1
            ORDER BY n.nth;
        END IF;
    ELSE
        IF flosse_bus_claim(_bus, _keys) IS NOT NULL THEN
            PERFORM flosse_bus_await(_bus, _keys);
        END IF;
        FOR one IN
            SELECT n.* FROM unnest(_topics, _events, _bodies, _raws, _keys)
                WITH ORDINALITY n(topic, event, body, raw, key, nth)
            ORDER BY n.nth
        LOOP
            IF one.key IS NOT NULL THEN
                INSERT INTO flosse_bus_key AS k (bus, key, until, raw, topic, event, body)
                SELECT _bus, one.key, clock_timestamp() + make_interval(secs => _keep), one.raw,
                    one.topic, one.event, one.body
                WHERE NOT EXISTS (
                    -- Looked for first: a conflict would lock its row, which giving positions may
                    -- want.
                    SELECT FROM flosse_bus_key o WHERE o.bus = _bus AND o.key = one.key
                        AND (o.position IS NULL OR o.until > clock_timestamp())
                )
                ON CONFLICT (bus, key) DO UPDATE SET
                    until = excluded.until, position = NULL, previous = NULL, published_at = NULL,
                    raw = excluded.raw, topic = excluded.topic, epoch = NULL,
                    event = excluded.event, body = excluded.body
                WHERE k.position IS NOT NULL AND k.until <= clock_timestamp();
                CONTINUE WHEN NOT FOUND;
            END IF;
            INSERT INTO flosse_bus_event (bus, topic, event, body, raw, key, xact, call)
            VALUES (
                _bus, one.topic, one.event, one.body, one.raw, one.key, pg_current_xact_id(), head
            )
            RETURNING coalesce(call, id) INTO head;
        END LOOP;
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
        -- Plans are for the most that may come, mostly little does, and compiling takes longer.
        EXECUTE format(
            'ALTER FUNCTION %I.%I SET jit = off', current_schema(), 'flosse_bus_' || name
        );
    END LOOP;
END
$do$
