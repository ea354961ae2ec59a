-- Publishing from transactions, what watches the tables, and settings of the functions.

CREATE FUNCTION flosse_bus_channel(_bus text) RETURNS text LANGUAGE sql IMMUTABLE AS $$
    SELECT 'flosse_bus_' || left(md5(_bus), 16)
$$
--
-- Put an event into the outbox: it is published if and when this transaction commits.
CREATE FUNCTION flosse_bus_enlist(
    _bus text, _topic text, _event text, _body bytea, _raw boolean
) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO flosse_bus_event (bus, topic, event, body, raw, xact)
    VALUES (_bus, _topic, _event, _body, _raw, pg_current_xact_id());
    PERFORM pg_notify(flosse_bus_channel(_bus), _topic);
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
    PERFORM flosse_bus_enlist(bus, topic, event, convert_to(content, 'UTF8'), is_raw);
END
$$
--
CREATE FUNCTION flosse_bus_truncated() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify(flosse_bus_channel(l.bus), '') FROM flosse_bus_log l;
    DELETE FROM flosse_bus_log;
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
        'append', 'settle', 'enlist', 'publish', 'listen', 'read', 'flush', 'truncated'
    ] LOOP
        EXECUTE format(
            'ALTER FUNCTION %I.%I SET search_path = %I, pg_temp',
            current_schema(), 'flosse_bus_' || name, current_schema()
        );
    END LOOP;
    FOREACH name IN ARRAY ARRAY['append', 'settle', 'listen', 'read'] LOOP
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
