-- What readers see: each function sees all of it at one moment, for it is STABLE.

-- What a reader must know of a log first. No row: it has not begun, or cannot go on in its epoch.
-- "unsettled": flosse_bus_settle has events to give positions to.
CREATE FUNCTION flosse_bus_state(
    _bus text, OUT epoch text, OUT tail bigint, OUT forgotten bigint, OUT forgotten_by jsonb,
    OUT signature text, OUT ancestors jsonb, OUT unsettled boolean
) LANGUAGE plpgsql STABLE AS $$
BEGIN
    SELECT l.epoch, greatest(l.position, newest.position), l.forgotten, l.forgotten_by, l.signature,
        l.ancestors, EXISTS (
        SELECT FROM flosse_bus_event e
        WHERE e.bus = _bus AND e.position IS NULL AND e.xact >= l.horizon
    )
    INTO epoch, tail, forgotten, forgotten_by, signature, ancestors, unsettled
    FROM flosse_bus_log l
    JOIN flosse_bus_run r ON r.bus = l.bus AND l.run = r.id || '-' || r.xmin::text
    LEFT JOIN LATERAL (
        SELECT e.position FROM flosse_bus_event e
        WHERE e.bus = _bus AND e.position IS NOT NULL ORDER BY e.position DESC LIMIT 1
    ) newest ON true
    WHERE l.bus = _bus;
    unsettled := coalesce(unsettled, true);
END
$$
--
-- The events of some topics after a position, oldest first, as many as fit; then a row without a
-- topic: the log's epoch, its tail, and in "raw" whether flosse_bus_settle must be called first; what
-- forgotten topics have lost as in flosse_bus_log, "forgotten" in "previous", "forgotten_by" in "event"
-- and "signature" in "body": a reader that comes late finds no trace but this of what has expired.
-- STABLE: all of it is seen at one moment. All topics: _topics is null.
CREATE FUNCTION flosse_bus_listen(
    _bus text, _after bigint, _topics text[], _regex text, _rows integer, _bytes bigint,
    _anyway boolean
) RETURNS TABLE (
    topic text, event text, body bytea, raw boolean, epoch text, "position" bigint, previous bigint,
    published_at double precision
) LANGUAGE plpgsql STABLE AS $$
#variable_conflict use_column
DECLARE
    state record;
BEGIN
    state := flosse_bus_state(_bus);
    IF state.tail > _after AND (_anyway OR NOT state.unsettled) THEN
        RETURN QUERY
        SELECT
            p.topic, p.event, p.body, p.raw, p.epoch, p.position, p.previous,
            extract(epoch FROM p.published_at)::double precision
        FROM (
            SELECT o.*, sum(octet_length(o.body)) OVER (ORDER BY o.position) AS total
            FROM (
                -- Not by the index of topics: what is new is little, what is kept may be much.
                SELECT e.* FROM flosse_bus_event e
                WHERE e.bus = _bus AND e.position > _after AND (
                    _topics IS NULL OR (e.topic || '') = ANY (_topics) OR e.topic ~ _regex
                )
                ORDER BY e.position LIMIT _rows
            ) o
        ) p
        WHERE p.total - octet_length(p.body) < _bytes
        ORDER BY p.position;
    END IF;
    RETURN QUERY SELECT
        NULL, state.forgotten_by::text, convert_to(state.signature, 'UTF8'), state.unsettled,
        state.epoch, state.tail, state.forgotten, NULL::double precision;
END
$$
--
-- What is kept of some topics: for each its events in order, or one row with the position of its
-- last event in "previous" if all have expired, which is in "head" in any case. Where the clock was set
-- back, some that have expired may be left out between others. Then a row without a topic as flosse_bus_listen has
-- it, with "forgotten" in "previous", "forgotten_by" in "event" and "ancestors" in "body". "floor":
-- see flosse_bus_topic.
CREATE FUNCTION flosse_bus_read(
    _bus text, _topics text[], _regex text, _history jsonb, _anyway boolean
) RETURNS TABLE (
    topic text, event text, body bytea, raw boolean, epoch text, "position" bigint, previous bigint,
    published_at double precision, floor bigint, head bigint
) LANGUAGE plpgsql STABLE AS $$
#variable_conflict use_column
DECLARE
    state record;
    now timestamptz := clock_timestamp();
BEGIN
    state := flosse_bus_state(_bus);
    IF _anyway OR NOT state.unsettled THEN
        RETURN QUERY
        SELECT
            t.topic, e.event, e.body, e.raw, e.epoch, e.position,
            coalesce(e.previous, last.position),
            extract(epoch FROM e.published_at)::double precision, t.floor, last.position
        FROM (
            SELECT one.topic, one.floor FROM flosse_bus_topic one
            WHERE one.bus = _bus AND one.topic = ANY (_topics)
            UNION
            SELECT one.topic, one.floor FROM flosse_bus_topic one
            WHERE one.bus = _bus AND one.topic ~ _regex
        ) t
        CROSS JOIN LATERAL flosse_bus_bounds(_history, t.topic) bound
        CROSS JOIN LATERAL (
            SELECT e.number, e.position, e.start + octet_length(e.body) AS ending
            FROM flosse_bus_event e
            WHERE e.bus = _bus AND e.topic = t.topic AND e.number IS NOT NULL
            ORDER BY e.number DESC LIMIT 1
        ) last
        LEFT JOIN LATERAL (
            SELECT k.* FROM flosse_bus_event k
            WHERE k.bus = _bus AND k.topic = t.topic AND k.number > last.number - bound.size
                AND k.published_at
                    > coalesce(now - make_interval(secs => bound.ttl), '-infinity')
                AND (
                    bound.bytes IS NULL OR k.start >= last.ending - bound.bytes
                    OR k.number = last.number
                )
        ) e ON true
        ORDER BY t.topic, e.number;
    END IF;
    RETURN QUERY SELECT
        NULL, f.forgotten_by::text, convert_to(state.ancestors::text, 'UTF8'), state.unsettled,
        state.epoch, state.tail, f.forgotten, NULL::double precision, NULL::bigint, NULL::bigint
    FROM flosse_bus_forgotten(
        _history, state.signature, state.forgotten, state.forgotten_by
    ) f;
END
$$
