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
        log.bus := _bus;
        log.ancestors := '{}';
        log.position := 0;
        log.published_at := '-infinity';
        log.forgotten := 0;
        log.swept := 0;
        log.oldest := '-infinity';
    END IF;
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
        log.published_at := newest.published_at;
    END IF;
    RETURN log;
END
$$
--
-- Give positions to the oldest of what is in the outbox: at most 2000 events, so that whoever waits
-- for the lock does not wait long.
CREATE FUNCTION flosse_bus_number(INOUT log flosse_bus_log, _size bigint) LANGUAGE plpgsql AS $$
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
    WITH places AS MATERIALIZED (
        SELECT
            w.id, w.topic, w.place, coalesce(last.number, 0) + w.nth AS number,
            coalesce(before + w.earlier, last.position, 0) AS previous
        FROM (
            SELECT
                o.id, o.topic, o.place, row_number() OVER topic AS nth,
                lag(o.place) OVER topic AS earlier
            FROM (
                SELECT n.id, n.topic, row_number() OVER (ORDER BY n.id) AS place
                FROM (
                    SELECT e.id, e.topic FROM flosse_bus_event e
                    WHERE e.bus = log.bus AND e.position IS NULL AND e.xact >= log.horizon
                    ORDER BY e.id LIMIT 2000
                ) n
            ) o
            WINDOW topic AS (PARTITION BY o.topic ORDER BY o.place)
        ) w
        LEFT JOIN LATERAL (
            SELECT e.number, e.position FROM flosse_bus_event e
            WHERE e.bus = log.bus AND e.topic = w.topic AND e.number IS NOT NULL
            ORDER BY e.number DESC LIMIT 1
        ) last ON true
    ), fresh AS (
        INSERT INTO flosse_bus_topic
        SELECT log.bus, p.topic, log.forgotten FROM places p WHERE p.number = 1
        ON CONFLICT (bus, topic) DO UPDATE SET floor = excluded.floor
    )
    UPDATE flosse_bus_event e
    SET position = before + p.place, number = p.number, previous = p.previous, epoch = log.epoch,
        published_at = log.published_at
    FROM places p WHERE e.id = p.id;
    GET DIAGNOSTICS numbered = ROW_COUNT;
    log.position := before + numbered;
    IF numbered < 2000 THEN
        log.horizon := seen;
    END IF;
    DELETE FROM flosse_bus_event e
    USING (
        SELECT n.topic, min(n.number) - _size AS lowest, max(n.number) - _size AS highest
        FROM flosse_bus_event n WHERE n.bus = log.bus AND n.position > before GROUP BY n.topic
    ) t
    WHERE e.bus = log.bus AND e.topic = t.topic AND e.number BETWEEN t.lowest AND t.highest;
END
$$
--
-- Delete some of what has expired, forget topics of which nothing is left, and write the log's row:
-- every 16 events, so that it is done less often than there are events but keeps up with them.
CREATE FUNCTION flosse_bus_tidy(log flosse_bus_log, _before bigint, _ttl double precision)
RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    cutoff timestamptz := clock_timestamp() - make_interval(secs => _ttl);
    topics text[];
    heads bigint[];
    removed bigint;
    first record;
BEGIN
    IF log.position / 16 = _before / 16 THEN
        RETURN;
    END IF;
    IF log.oldest <= cutoff THEN
        WITH gone AS (
            DELETE FROM flosse_bus_event e
            USING (
                SELECT o.id FROM flosse_bus_event o
                WHERE o.bus = log.bus AND o.position > log.swept
                ORDER BY o.position LIMIT greatest(64, 4 * (log.position - _before))
            ) old
            WHERE e.id = old.id AND e.published_at <= cutoff
            RETURNING e.topic, e.position
        ), last AS (
            SELECT g.topic, max(g.position) AS head FROM gone g GROUP BY g.topic
        )
        SELECT array_agg(l.topic), array_agg(l.head), greatest(log.swept, max(l.head))
        INTO topics, heads, log.swept FROM last l;
        WITH dead AS (
            DELETE FROM flosse_bus_topic t USING unnest(topics, heads) g(topic, head)
            WHERE t.bus = log.bus AND t.topic = g.topic AND NOT EXISTS (
                SELECT FROM flosse_bus_event e
                WHERE e.bus = log.bus AND e.topic = g.topic AND e.number IS NOT NULL
            )
            RETURNING g.head
        )
        SELECT max(d.head) INTO removed FROM dead d;
        log.forgotten := greatest(log.forgotten, removed);
        SELECT e.position, e.published_at INTO first FROM flosse_bus_event e
        WHERE e.bus = log.bus AND e.position > log.swept ORDER BY e.position LIMIT 1;
        log.swept := coalesce(first.position - 1, log.position);
        log.oldest := coalesce(first.published_at, log.published_at);
    END IF;
    UPDATE flosse_bus_log l
    SET position = log.position, published_at = log.published_at, forgotten = log.forgotten,
        swept = log.swept, oldest = log.oldest, horizon = log.horizon
    WHERE l.bus = log.bus;
END
$$
--
-- Append one event now. "relaxed": a crash of the server may lose what was committed last. Without
-- a position nothing was appended, for more in the outbox must come before: call again.
CREATE FUNCTION flosse_bus_append(
    _bus text, _topic text, _event text, _body bytea, _raw boolean, _size bigint,
    _ttl double precision, _relaxed boolean, OUT epoch text, OUT "position" bigint,
    OUT previous bigint, OUT published_at double precision
) LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    log flosse_bus_log;
    before bigint;
    last record;
    nth bigint;
BEGIN
    IF _relaxed THEN
        PERFORM set_config('synchronous_commit', 'off', true);
    END IF;
    log := flosse_bus_open(_bus);
    before := log.position;
    log := flosse_bus_number(log, _size);
    IF log.position = before + 2000 THEN
        PERFORM flosse_bus_tidy(log, before, _ttl);
        RETURN;
    END IF;
    SELECT e.number, e.position INTO last FROM flosse_bus_event e
    WHERE e.bus = _bus AND e.topic = _topic AND e.number IS NOT NULL
    ORDER BY e.number DESC LIMIT 1;
    nth := coalesce(last.number, 0) + 1;
    IF nth = 1 THEN
        INSERT INTO flosse_bus_topic VALUES (_bus, _topic, log.forgotten)
        ON CONFLICT (bus, topic) DO UPDATE SET floor = excluded.floor;
    END IF;
    log.position := log.position + 1;
    log.published_at := greatest(log.published_at, clock_timestamp());
    INSERT INTO flosse_bus_event
        (position, number, previous, published_at, raw, bus, topic, epoch, event, body)
    VALUES (
        log.position, nth, coalesce(last.position, 0), log.published_at, _raw, _bus, _topic,
        log.epoch, _event, _body
    );
    IF nth > _size THEN
        PERFORM flosse_bus_trim(_bus, _topic, nth - _size);
    END IF;
    PERFORM flosse_bus_tidy(log, before, _ttl);
    PERFORM pg_notify(flosse_bus_channel(_bus), _topic);
    epoch := log.epoch;
    "position" := log.position;
    previous := coalesce(last.position, 0);
    published_at := extract(epoch FROM log.published_at);
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
    _bus text, _size bigint, _ttl double precision, _relaxed boolean
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
    log := flosse_bus_number(log, _size);
    PERFORM flosse_bus_tidy(log, before, _ttl);
    RETURN log.position = before + 2000;
END
$$
--
-- Forget a log. The next that looks begins a new one.
CREATE FUNCTION flosse_bus_flush(_bus text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM flosse_bus_open(_bus);
    DELETE FROM flosse_bus_event e WHERE e.bus = _bus;
    DELETE FROM flosse_bus_topic t WHERE t.bus = _bus;
    DELETE FROM flosse_bus_log l WHERE l.bus = _bus;
    PERFORM pg_notify(flosse_bus_channel(_bus), '');
END
$$
