-- The invariant of the log: a position is given only under the lock of flosse_bus_open, by
-- a transaction that does nothing else. Locks are released after a commit has become visible, so
-- whoever sees position n sees all before n, and nothing below n appears later.

-- Begin a log, or a new epoch of one that has outlived its run: see flosse_bus_run.
CREATE FUNCTION flosse_bus_begin(_bus text) RETURNS flosse_bus_log LANGUAGE plpgsql AS $$
DECLARE
    log flosse_bus_log;
BEGIN
    SELECT l.* INTO log FROM flosse_bus_log l WHERE l.bus = _bus;
    -- Events that are not logged are gone with the run, so that nothing can go on from them.
    IF FOUND AND (
        SELECT relpersistence = 'p' FROM pg_class WHERE oid = 'flosse_bus_event'::regclass
    ) THEN
        log.position := greatest(log.position, (
            SELECT max(e.position) FROM flosse_bus_event e WHERE e.bus = _bus
        ));
        log.ancestors := (
            SELECT jsonb_object_agg(one.key, one.value)
            FROM (
                SELECT a.key, a.value
                FROM jsonb_each(log.ancestors || jsonb_build_object(log.epoch, log.position)) a
                ORDER BY a.value::bigint DESC, a.key = log.epoch DESC LIMIT 100
            ) one
        );
    ELSE
        DELETE FROM flosse_bus_event e WHERE e.bus = _bus AND e.position IS NOT NULL;
        DELETE FROM flosse_bus_topic t WHERE t.bus = _bus;
        DELETE FROM flosse_bus_key k WHERE k.bus = _bus AND k.position IS NOT NULL;
        log.bus := _bus;
        log.ancestors := '{}';
        log.position := 0;
        log.published_at := '-infinity';
        log.forgotten := 0;
        log.forgotten_by := '{}';
        log.signature := '';
        log.expires := '-infinity';
    END IF;
    log.published_at := least(log.published_at, clock_timestamp());
    log.epoch := left(replace(gen_random_uuid()::text, '-', ''), 12);
    log.horizon := '0';
    DELETE FROM flosse_bus_run r WHERE r.bus = _bus;
    INSERT INTO flosse_bus_run VALUES (_bus, gen_random_uuid()::text);
    -- A dump that is loaded again has other values of xmin, and is a log that lost its end.
    log.run := (SELECT r.id || '-' || r.xmin::text FROM flosse_bus_run r WHERE r.bus = _bus);
    DELETE FROM flosse_bus_log l WHERE l.bus = _bus;
    INSERT INTO flosse_bus_log SELECT log.*;
    RETURN log;
END
$$
--
-- Take the lock of a bus until the end of the transaction; return its row, brought up to date.
CREATE FUNCTION flosse_bus_open(_bus text) RETURNS flosse_bus_log LANGUAGE plpgsql AS $$
DECLARE
    log flosse_bus_log;
    newest record;
BEGIN
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE EXCEPTION 'positions are given in READ COMMITTED transactions only, not in %',
            upper(current_setting('transaction_isolation')) USING ERRCODE = 'ZB001';
    ELSIF pg_current_xact_id_if_assigned() IS NOT NULL THEN
        RAISE EXCEPTION 'positions are given in a transaction that does nothing else'
            USING ERRCODE = 'ZB002', HINT = 'Use flosse_bus_publish().';
    END IF;
    PERFORM set_config('lock_timeout', '5s', true);
    PERFORM pg_advisory_xact_lock(1179407187, hashtext(_bus));
    SELECT l.* INTO log
    FROM flosse_bus_log l
    JOIN flosse_bus_run r ON r.bus = l.bus AND l.run = r.id || '-' || r.xmin::text
    WHERE l.bus = _bus;
    IF NOT FOUND THEN
        RETURN flosse_bus_begin(_bus);
    END IF;
    SELECT e.position, e.published_at INTO newest FROM flosse_bus_event e
    WHERE e.bus = _bus AND e.position IS NOT NULL ORDER BY e.position DESC LIMIT 1;
    IF newest.position > log.position THEN
        log.position := newest.position;
    END IF;
    -- A clock that was set back: what comes now must not be dated as it was ahead. What is older and
    -- dated later expires with what comes after it.
    log.published_at := least(
        clock_timestamp(), greatest(log.published_at, newest.published_at)
    );
    RETURN log;
END
$$
--
-- What is kept of a topic: events, seconds, bytes. "_history" is a list of [regular expression or
-- null, events, seconds, bytes]; the first that covers the topic counts, and its place in the list
-- is the topic's class. The last one has the signature of all the others behind it.
CREATE FUNCTION flosse_bus_bounds(
    _history jsonb, _topic text, OUT size bigint, OUT ttl double precision, OUT bytes bigint,
    OUT class integer
) LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
    one jsonb;
BEGIN
    class := -1;
    FOR one IN SELECT h.value FROM jsonb_array_elements(_history) h LOOP
        class := class + 1;
        IF one ->> 0 IS NULL OR _topic ~ (one ->> 0) THEN
            size := (one ->> 1)::bigint;
            ttl := (one ->> 2)::double precision;
            bytes := (one ->> 3)::bigint;
            RETURN;
        END IF;
    END LOOP;
END
$$
--
-- What forgotten topics have lost, to somebody with this "_history": the classes of another
-- signature say nothing, and what they have lost counts for all topics.
CREATE FUNCTION flosse_bus_forgotten(
    _history jsonb, INOUT signature text, INOUT forgotten bigint, INOUT forgotten_by jsonb
) LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
    own text := coalesce(_history -> -1 ->> 4, '');
BEGIN
    IF signature <> own THEN
        forgotten := greatest(forgotten, (
            SELECT max(b.value::bigint) FROM jsonb_each_text(forgotten_by) b
        ));
        forgotten_by := '{}';
        signature := own;
    END IF;
END
$$
--
-- What a topic that is not in flosse_bus_topic may have lost.
CREATE FUNCTION flosse_bus_floor(log flosse_bus_log, _history jsonb, _topic text)
RETURNS bigint LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
    known record;
BEGIN
    IF log.forgotten_by = '{}' THEN
        RETURN log.forgotten;
    END IF;
    known := flosse_bus_forgotten(_history, log.signature, log.forgotten, log.forgotten_by);
    RETURN greatest(known.forgotten, (
        SELECT (known.forgotten_by ->> bound.class::text)::bigint
        FROM flosse_bus_bounds(_history, _topic) bound
    ));
END
$$
--
-- Note that topics are gone, and the last position of each.
CREATE FUNCTION flosse_bus_forget(
    INOUT log flosse_bus_log, _history jsonb, _topics text[], _heads bigint[]
) LANGUAGE plpgsql AS $$
DECLARE
    known record;
BEGIN
    IF _topics IS NULL THEN
        RETURN;
    ELSIF jsonb_array_length(_history) = 1 THEN  -- all are of one class
        log.forgotten := greatest(log.forgotten, (SELECT max(h.head) FROM unnest(_heads) h(head)));
        RETURN;
    END IF;
    known := flosse_bus_forgotten(_history, log.signature, log.forgotten, log.forgotten_by);
    log.signature := known.signature;
    log.forgotten := known.forgotten;
    log.forgotten_by := (
        SELECT jsonb_object_agg(lost.class, lost.head)
        FROM (
            SELECT one.class, max(one.head) AS head
            FROM (
                SELECT b.key AS class, b.value::bigint AS head
                FROM jsonb_each_text(known.forgotten_by) b
                UNION ALL
                SELECT bound.class::text, g.head FROM unnest(_topics, _heads) g(topic, head)
                CROSS JOIN LATERAL flosse_bus_bounds(_history, g.topic) bound
            ) one GROUP BY one.class
        ) lost
    );
END
$$
--
-- Give positions to the oldest of what is in the outbox: 2000 events and the rest of the last one's
-- call, which has 10000 at most, so that whoever waits for the lock does not wait long. Less than
-- 2000 were given: that was all.
CREATE FUNCTION flosse_bus_number(
    INOUT log flosse_bus_log, _history jsonb, _keep double precision
) LANGUAGE plpgsql AS $$
DECLARE
    before bigint := log.position;
    seen xid8;
    waiting boolean;
    numbered integer;
BEGIN
    SELECT pg_snapshot_xmin(pg_current_snapshot()), EXISTS (
        SELECT FROM flosse_bus_event e
        WHERE e.bus = log.bus AND e.position IS NULL AND e.xact >= log.horizon
    ) INTO seen, waiting;
    IF NOT waiting THEN
        log.horizon := seen;
        RETURN;
    END IF;
    log.published_at := greatest(log.published_at, clock_timestamp());
    -- Each step is an index scan for each event, or a sort: without statistics, which a fresh table
    -- lacks, the planner would join large sets as if they were small ones.
    WITH waiting AS MATERIALIZED (
        -- Not by "xact": transactions may begin long before they publish.
        SELECT
            e.id, e.topic, octet_length(e.body)::bigint AS length, coalesce(e.call, e.id) AS call
        FROM flosse_bus_event e
        WHERE e.bus = log.bus AND e.position IS NULL AND e.xact >= log.horizon
        ORDER BY coalesce(e.call, e.id), e.id LIMIT 12000
    ), places AS MATERIALIZED (
        SELECT
            w.id, w.topic, w.place, coalesce(last.number, 0) + w.nth AS number,
            coalesce(before + w.earlier, last.position, 0) AS previous,
            coalesce(last.ending, 0) + w.ending - w.length AS start,
            log.published_at + make_interval(secs => max(bound.ttl) OVER topic) AS expires_at
        FROM (
            SELECT
                o.id, o.topic, o.place, o.length, row_number() OVER topic AS nth,
                lag(o.place) OVER topic AS earlier, sum(o.length) OVER topic AS ending
            FROM (
                SELECT
                    n.id, n.topic, n.length, row_number() OVER (ORDER BY n.call, n.id) AS place,
                    rank() OVER (ORDER BY n.call) AS head  -- the place of the call's first event
                FROM waiting n
            ) o
            WHERE o.head <= 2000
            WINDOW topic AS (PARTITION BY o.topic ORDER BY o.place)
        ) w
        LEFT JOIN LATERAL (
            SELECT e.number, e.position, e.start + octet_length(e.body) AS ending
            FROM flosse_bus_event e
            WHERE e.bus = log.bus AND e.topic = w.topic AND e.number IS NOT NULL
            ORDER BY e.number DESC LIMIT 1
        ) last ON true
        LEFT JOIN LATERAL (
            SELECT b.ttl FROM flosse_bus_bounds(_history, w.topic) b WHERE w.nth = 1 LIMIT 1
        ) bound ON true
        WINDOW topic AS (PARTITION BY w.topic)
    ), fresh AS (
        INSERT INTO flosse_bus_topic
        SELECT log.bus, p.topic, flosse_bus_floor(log, _history, p.topic)
        FROM places p WHERE p.number = 1
        ON CONFLICT (bus, topic) DO UPDATE SET floor = excluded.floor
    )
    UPDATE flosse_bus_event e
    SET position = before + p.place, number = p.number, previous = p.previous, epoch = log.epoch,
        published_at = log.published_at, start = p.start,
        expires_at = coalesce(p.expires_at, 'infinity')
    FROM places p WHERE e.id = p.id;
    GET DIAGNOSTICS numbered = ROW_COUNT;
    log.position := before + numbered;
    IF numbered < 2000 THEN
        log.horizon := seen;
    END IF;
    UPDATE flosse_bus_key k
    SET position = e.position, previous = e.previous, epoch = e.epoch,
        published_at = e.published_at, until = e.published_at + make_interval(secs => _keep)
    FROM flosse_bus_event e
    WHERE e.bus = log.bus AND e.position > before AND e.key IS NOT NULL
        AND k.bus = e.bus AND k.key = e.key;
    log := flosse_bus_trim_after(log, before, _history);
END
$$
--
-- Delete what is too much since a position; return the log with the time when something expires.
CREATE FUNCTION flosse_bus_trim_after(
    INOUT log flosse_bus_log, _before bigint, _history jsonb
) LANGUAGE plpgsql AS $$
DECLARE
    one record;
BEGIN
    log.expires := least(log.expires, (
        SELECT min(e.expires_at) FROM flosse_bus_event e
        WHERE e.bus = log.bus AND e.position > _before
    ));
    FOR one IN
        SELECT t.topic, t.first - bound.size AS lowest, t.last - bound.size AS highest, bound.bytes
        FROM (
            SELECT n.topic, min(n.number) AS first, max(n.number) AS last FROM flosse_bus_event n
            WHERE n.bus = log.bus AND n.position > _before GROUP BY n.topic
        ) t
        CROSS JOIN LATERAL flosse_bus_bounds(_history, t.topic) bound
    LOOP
        IF one.highest > 0 THEN
            DELETE FROM flosse_bus_event e
            WHERE e.bus = log.bus AND e.topic = one.topic
                AND e.number BETWEEN one.lowest AND one.highest;
            -- HISTORY_SIZE was larger once: what is kept is without a hole.
            IF EXISTS (
                SELECT FROM flosse_bus_event e
                WHERE e.bus = log.bus AND e.topic = one.topic AND e.number = one.lowest - 1
            ) THEN
                DELETE FROM flosse_bus_event e
                WHERE e.bus = log.bus AND e.topic = one.topic AND e.number < one.lowest;
            END IF;
        END IF;
        IF one.bytes IS NOT NULL THEN
            PERFORM flosse_bus_shrink(log.bus, one.topic, one.bytes);
        END IF;
    END LOOP;
END
$$
--
-- Delete the oldest events of a topic until its data fit, or only its newest event is left.
CREATE FUNCTION flosse_bus_shrink(_bus text, _topic text, _bytes bigint)
RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    last record;
    one record;
    cut bigint;
BEGIN
    SELECT e.number, e.start + octet_length(e.body) AS ending INTO last FROM flosse_bus_event e
    WHERE e.bus = _bus AND e.topic = _topic AND e.number IS NOT NULL
    ORDER BY e.number DESC LIMIT 1;
    FOR one IN
        SELECT e.number, e.start FROM flosse_bus_event e
        WHERE e.bus = _bus AND e.topic = _topic AND e.number < last.number
        ORDER BY e.number
    LOOP
        EXIT WHEN one.start >= last.ending - _bytes;
        cut := one.number;
    END LOOP;
    DELETE FROM flosse_bus_event e
    WHERE e.bus = _bus AND e.topic = _topic AND e.number <= cut;
END
$$
--
-- Delete some of what has expired, forget topics of which nothing is left, and write the log's row:
-- every 16 events, so that it is done less often than there are events but keeps up with them.
CREATE FUNCTION flosse_bus_tidy(log flosse_bus_log, _before bigint, _history jsonb)
RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    now timestamptz := clock_timestamp();
    topics text[];
    heads bigint[];
BEGIN
    IF log.position / 16 = _before / 16 THEN
        RETURN;
    END IF;
    IF log.expires <= now THEN
        -- With all that is older in the same topic: HISTORY_TTL may have been longer before, and
        -- what is kept is without a hole.
        WITH old AS MATERIALIZED (
            SELECT o.topic, max(o.number) AS number FROM (
                SELECT x.topic, x.number FROM flosse_bus_event x
                WHERE x.bus = log.bus AND x.expires_at <= now AND x.expires_at < 'infinity'
                ORDER BY x.expires_at LIMIT greatest(64, 4 * (log.position - _before))
            ) o GROUP BY o.topic
        ), gone AS (
            DELETE FROM flosse_bus_event e USING old
            WHERE e.bus = log.bus AND e.topic = old.topic AND e.number <= old.number
            RETURNING e.topic, e.position
        ), last AS (
            SELECT g.topic, max(g.position) AS head FROM gone g GROUP BY g.topic
        )
        SELECT array_agg(l.topic), array_agg(l.head) INTO topics, heads FROM last l;
        WITH dead AS (
            DELETE FROM flosse_bus_topic t USING unnest(topics, heads) g(topic, head)
            WHERE t.bus = log.bus AND t.topic = g.topic AND NOT EXISTS (
                SELECT FROM flosse_bus_event e
                WHERE e.bus = log.bus AND e.topic = g.topic AND e.number IS NOT NULL
            )
            RETURNING g.topic, g.head
        )
        SELECT array_agg(d.topic), array_agg(d.head) INTO topics, heads FROM dead d;
        log := flosse_bus_forget(log, _history, topics, heads);
        log.expires := coalesce((
            SELECT e.expires_at FROM flosse_bus_event e
            WHERE e.bus = log.bus AND e.expires_at < 'infinity' ORDER BY e.expires_at LIMIT 1
        ), 'infinity');
    END IF;
    DELETE FROM flosse_bus_key k
    USING (
        SELECT o.key FROM flosse_bus_key o
        WHERE o.bus = log.bus AND o.until <= now AND o.position IS NOT NULL
        ORDER BY o.until LIMIT greatest(64, 4 * (log.position - _before))
        FOR UPDATE SKIP LOCKED
    ) old
    WHERE k.bus = log.bus AND k.key = old.key;
    UPDATE flosse_bus_log l
    SET position = log.position, published_at = log.published_at, forgotten = log.forgotten,
        forgotten_by = log.forgotten_by, signature = log.signature, expires = log.expires, horizon = log.horizon
    WHERE l.bus = log.bus;
END
$$
--
-- Append one event now. "relaxed": a crash of the server may lose what was committed last. Without
-- a position nothing was appended, for more in the outbox must come before: call again.
CREATE FUNCTION flosse_bus_append(
    _bus text, _topic text, _event text, _body bytea, _raw boolean, _size bigint,
    _ttl double precision, _bytes bigint, _history jsonb, _keep double precision, _relaxed boolean,
    OUT epoch text, OUT "position" bigint, OUT previous bigint, OUT published_at double precision
) LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    log flosse_bus_log;
    before bigint;
    last record;
    nth bigint;
    expiry timestamptz;
BEGIN
    IF _relaxed THEN
        PERFORM set_config('synchronous_commit', 'off', true);
    END IF;
    log := flosse_bus_open(_bus);
    before := log.position;
    log := flosse_bus_number(log, _history, _keep);
    IF log.position >= before + 2000 THEN
        PERFORM flosse_bus_tidy(log, before, _history);
        RETURN;
    END IF;
    SELECT e.number, e.position, e.start + octet_length(e.body) AS ending
    INTO last FROM flosse_bus_event e
    WHERE e.bus = _bus AND e.topic = _topic AND e.number IS NOT NULL
    ORDER BY e.number DESC LIMIT 1;
    nth := coalesce(last.number, 0) + 1;
    IF nth = 1 THEN
        INSERT INTO flosse_bus_topic
        VALUES (_bus, _topic, flosse_bus_floor(log, _history, _topic))
        ON CONFLICT (bus, topic) DO UPDATE SET floor = excluded.floor;
    END IF;
    log.position := log.position + 1;
    log.published_at := greatest(log.published_at, clock_timestamp());
    expiry := coalesce(log.published_at + make_interval(secs => _ttl), 'infinity');
    log.expires := least(log.expires, expiry);
    INSERT INTO flosse_bus_event (
        position, number, previous, start, published_at, expires_at, raw, bus, topic, epoch, event,
        body
    ) VALUES (
        log.position, nth, coalesce(last.position, 0), coalesce(last.ending, 0), log.published_at,
        expiry, _raw, _bus, _topic, log.epoch, _event, _body
    );
    IF nth > _size THEN
        PERFORM flosse_bus_trim(_bus, _topic, nth - _size);
    END IF;
    IF _bytes IS NOT NULL THEN
        PERFORM flosse_bus_shrink(_bus, _topic, _bytes);
    END IF;
    PERFORM flosse_bus_tidy(log, before, _history);
    PERFORM pg_notify(flosse_bus_channel(_bus), _topic);
    epoch := log.epoch;
    "position" := log.position;
    previous := coalesce(last.position, 0);
    published_at := extract(epoch FROM log.published_at);
END
$$
--
-- Keep transactions that publish with the same keys from beginning: this one has the keys from here
-- to its end. Not null: a key that another one has, and nothing may be published.
-- It waits for none: whoever waits inside the database holds a connection. And it comes before the
-- lock of flosse_bus_open, for a transaction of a project's may keep a key for long.
CREATE FUNCTION flosse_bus_claim(_bus text, _keys text[]) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    RETURN (
        SELECT h.key
        FROM (
            SELECT DISTINCT ON (k.hash) k.hash, k.key
            FROM (SELECT n.key, hashtext(_bus || ' ' || n.key) FROM unnest(_keys) n(key))
                k(key, hash)
            WHERE k.hash IS NOT NULL ORDER BY k.hash
        ) h
        WHERE NOT pg_try_advisory_xact_lock(1179407188, h.hash)
        LIMIT 1
    );
END
$$
--
-- Append some events, next to each other; return for each, in the same order, where it is. Without
-- a row nothing was appended: call again. With an event's data: its key is that of this event,
-- which was published before, and it was not appended. A key occurs once here at most.
-- With one row that has no position nothing was appended either, for another transaction has the
-- key in "event": call again later.
CREATE FUNCTION flosse_bus_append_many(
    _bus text, _topics text[], _events text[], _bodies bytea[], _raws boolean[], _keys text[],
    _history jsonb, _keep double precision, _relaxed boolean
) RETURNS TABLE (
    topic text, event text, body bytea, raw boolean, epoch text, "position" bigint, previous bigint,
    published_at double precision
) LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    log flosse_bus_log;
    before bigint;
    appended bigint;
BEGIN
    IF _relaxed THEN
        PERFORM set_config('synchronous_commit', 'off', true);
    END IF;
    IF _keys IS NOT NULL THEN
        event := flosse_bus_claim(_bus, _keys);
        IF event IS NOT NULL THEN
            RETURN NEXT;
            RETURN;
        END IF;
    END IF;
    log := flosse_bus_open(_bus);
    before := log.position;
    log := flosse_bus_number(log, _history, _keep);
    IF log.position >= before + 2000 THEN
        PERFORM flosse_bus_tidy(log, before, _history);
        RETURN;
    END IF;
    log.published_at := greatest(log.published_at, clock_timestamp());
    RETURN QUERY
    WITH given AS MATERIALIZED (
        SELECT n.*, known.position AS known
        FROM unnest(_topics, _events, _bodies, _raws, coalesce(_keys, ARRAY[]::text[]))
            WITH ORDINALITY n(topic, event, body, raw, key, nth)
        LEFT JOIN LATERAL (
            SELECT k.position FROM flosse_bus_key k
            WHERE k.bus = _bus AND k.key = n.key AND k.until > log.published_at LIMIT 1
        ) known ON true
    ), places AS MATERIALIZED (
        SELECT
            w.*, coalesce(max(last.number) OVER topic, 0) + w.step AS number,
            coalesce(w.earlier, last.position, 0) AS previous,
            coalesce(max(last.ending) OVER topic, 0) + w.ending - octet_length(w.body) AS start,
            coalesce(
                log.published_at + make_interval(secs => max(bound.ttl) OVER topic), 'infinity'
            ) AS expires_at
        FROM (
            SELECT
                o.*, row_number() OVER topic AS step, lag(o.place) OVER topic AS earlier,
                sum(octet_length(o.body)) OVER topic AS ending
            FROM (
                SELECT g.*, log.position + row_number() OVER (ORDER BY g.nth) AS place
                FROM given g WHERE g.known IS NULL
            ) o
            WINDOW topic AS (PARTITION BY o.topic ORDER BY o.place)
        ) w
        LEFT JOIN LATERAL (
            SELECT e.number, e.position, e.start + octet_length(e.body) AS ending
            FROM flosse_bus_event e
            WHERE w.step = 1 AND e.bus = _bus AND e.topic = w.topic AND e.number IS NOT NULL
            ORDER BY e.number DESC LIMIT 1
        ) last ON true
        LEFT JOIN LATERAL (
            SELECT b.ttl FROM flosse_bus_bounds(_history, w.topic) b WHERE w.step = 1 LIMIT 1
        ) bound ON true
        WINDOW topic AS (PARTITION BY w.topic)
    ), fresh AS (
        INSERT INTO flosse_bus_topic
        SELECT _bus, p.topic, flosse_bus_floor(log, _history, p.topic)
        FROM places p WHERE p.number = 1
        ON CONFLICT (bus, topic) DO UPDATE SET floor = excluded.floor
    ), stored AS (
        INSERT INTO flosse_bus_event (
            position, number, previous, start, published_at, expires_at, raw, bus, topic, epoch,
            event, body
        )
        SELECT
            p.place, p.number, p.previous, p.start, log.published_at, p.expires_at, p.raw, _bus,
            p.topic, log.epoch, p.event, p.body
        FROM places p ORDER BY p.place
    ), remembered AS (
        INSERT INTO flosse_bus_key AS k
        SELECT
            _bus, p.key, log.published_at + make_interval(secs => _keep), p.place, p.previous,
            log.published_at, p.raw, p.topic, log.epoch, p.event, p.body
        FROM places p WHERE p.key IS NOT NULL
        ON CONFLICT (bus, key) DO UPDATE SET
            until = excluded.until, position = excluded.position, previous = excluded.previous,
            published_at = excluded.published_at, raw = excluded.raw, topic = excluded.topic,
            epoch = excluded.epoch, event = excluded.event, body = excluded.body
    )
    SELECT one.topic, one.event, one.body, one.raw, one.epoch, one.position, one.previous,
        extract(epoch FROM one.published_at)::double precision
    FROM (
        SELECT p.nth, NULL::text AS topic, NULL::text AS event, NULL::bytea AS body,
            NULL::boolean AS raw, log.epoch, p.place AS "position", p.previous, log.published_at
        FROM places p
        UNION ALL
        SELECT g.nth, k.topic, k.event, k.body, k.raw, k.epoch, k.position, k.previous,
            k.published_at
        FROM given g JOIN flosse_bus_key k ON k.bus = _bus AND k.key = g.key
        WHERE g.known IS NOT NULL
    ) one
    ORDER BY one.nth;
    SELECT count(*) INTO appended FROM flosse_bus_event e
    WHERE e.bus = _bus AND e.position > log.position;
    IF appended = 0 THEN
        PERFORM flosse_bus_tidy(log, before, _history);
        RETURN;
    END IF;
    log := flosse_bus_trim_after(log, log.position, _history);
    log.position := log.position + appended;
    PERFORM flosse_bus_tidy(log, before, _history);
    PERFORM pg_notify(flosse_bus_channel(_bus), t.topic)
    FROM (SELECT DISTINCT n.topic FROM unnest(_topics) n(topic)) t;
END
$$
--
-- Delete the event of a topic that is one too many. By its number: counting, or looking for the
-- lowest, would go past all that was deleted and not yet vacuumed.
CREATE FUNCTION flosse_bus_trim(_bus text, _topic text, _number bigint)
RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF NOT EXISTS (
        SELECT FROM flosse_bus_event e
        WHERE e.bus = _bus AND e.topic = _topic AND e.number = _number - 1
    ) THEN
        DELETE FROM flosse_bus_event e
        WHERE e.bus = _bus AND e.topic = _topic AND e.number = _number;
    ELSE
        -- HISTORY_SIZE was larger once: from the oldest on, until none is left.
        DELETE FROM flosse_bus_event e
        USING (
            SELECT o.id FROM flosse_bus_event o
            WHERE o.bus = _bus AND o.topic = _topic AND o.number <= _number
            ORDER BY o.number LIMIT 100
        ) old
        WHERE e.id = old.id;
    END IF;
END
$$
--
-- Begin the log if need be, and give positions to what is in the outbox. True: there is more.
-- Readers call it by itself: a slow one must not keep the lock while it takes its rows.
CREATE FUNCTION flosse_bus_settle(
    _bus text, _history jsonb, _keep double precision, _relaxed boolean
) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    log flosse_bus_log;
    before bigint;
BEGIN
    IF NOT (SELECT s.unsettled FROM flosse_bus_state(_bus) s) THEN
        RETURN false;
    END IF;
    IF _relaxed THEN
        PERFORM set_config('synchronous_commit', 'off', true);
    END IF;
    log := flosse_bus_open(_bus);
    before := log.position;
    log := flosse_bus_number(log, _history, _keep);
    PERFORM flosse_bus_tidy(log, before, _history);
    RETURN log.position >= before + 2000;
END
$$
--
-- Forget a log. The next that looks begins a new one.
CREATE FUNCTION flosse_bus_flush(_bus text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM flosse_bus_open(_bus);
    DELETE FROM flosse_bus_event e WHERE e.bus = _bus;
    DELETE FROM flosse_bus_topic t WHERE t.bus = _bus;
    DELETE FROM flosse_bus_key k WHERE k.bus = _bus;
    DELETE FROM flosse_bus_log l WHERE l.bus = _bus;
    PERFORM pg_notify(flosse_bus_channel(_bus), '');
END
$$
