-- One row per bus, written every few events only: a row that each event updated would gather as
-- many dead versions as there are events while any long transaction is open in the database.
-- What is newer than this row is read from the newest event.
CREATE UNLOGGED TABLE flosse_bus_log (
    bus text COLLATE "C" PRIMARY KEY,
    epoch text NOT NULL,
    -- Epochs that this log has gone on from, each with the last position it brought along.
    ancestors jsonb NOT NULL,
    -- The row of flosse_bus_run that this epoch belongs to.
    run text NOT NULL,
    position bigint NOT NULL,
    published_at timestamptz NOT NULL,
    -- What topics have lost at most that are not in flosse_bus_topic any more: a position for all of
    -- them, and beyond it one for each class of them, by the TOPICS that the signature names.
    forgotten bigint NOT NULL,
    forgotten_by jsonb NOT NULL,
    signature text NOT NULL,
    -- Nothing that is kept expires before this.
    expires timestamptz NOT NULL,
    -- Whatever older transactions have put into the outbox has its position.
    horizon xid8 NOT NULL
) WITH (fillfactor = 20, autovacuum_vacuum_threshold = 200, autovacuum_vacuum_scale_factor = 0)
--
-- Always unlogged, for PostgreSQL empties it whenever what was committed last may be lost: after a
-- crash, on a promoted replica, on a restored backup. The log then goes on in a new epoch.
CREATE UNLOGGED TABLE flosse_bus_run (
    bus text COLLATE "C" PRIMARY KEY,
    id text NOT NULL
)
--
-- The topics of which an event is kept. Up to "floor" one may have lost events before its first.
CREATE UNLOGGED TABLE flosse_bus_topic (
    bus text COLLATE "C" NOT NULL,
    topic text COLLATE "C" NOT NULL,
    floor bigint NOT NULL,
    PRIMARY KEY (bus, topic)
)
--
-- The events, and those that have no position yet: the outbox of transactions.
CREATE UNLOGGED TABLE flosse_bus_event (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    position bigint,
    -- Counts the events of the topic. The kept ones are its last, without a hole.
    number bigint,
    -- The position of the topic's event before this one, or 0.
    previous bigint,
    -- Bytes of data that the topic's events before this one had.
    start bigint,
    published_at timestamptz,
    expires_at timestamptz,
    -- In the outbox: the transaction that put it there.
    xact xid8,
    -- There, too: the id of its call's first event. Null: it is the first itself. Ids are drawn one
    -- by one, so that those of other transactions may be between the ids of a call.
    call bigint,
    raw boolean NOT NULL,
    bus text COLLATE "C" NOT NULL,
    topic text COLLATE "C" NOT NULL,
    epoch text,
    event text,
    body bytea NOT NULL,
    key text
) WITH (
    autovacuum_vacuum_threshold = 2000, autovacuum_vacuum_scale_factor = 0.02,
    autovacuum_analyze_threshold = 2000, autovacuum_analyze_scale_factor = 0.1
)
--
CREATE UNIQUE INDEX flosse_bus_event_position ON flosse_bus_event (bus, position)
    WHERE position IS NOT NULL
--
CREATE UNIQUE INDEX flosse_bus_event_number ON flosse_bus_event (bus, topic, number)
    WHERE number IS NOT NULL
--
CREATE INDEX flosse_bus_event_expires ON flosse_bus_event (bus, expires_at)
    WHERE expires_at < 'infinity'
--
CREATE INDEX flosse_bus_event_outbox ON flosse_bus_event (bus, xact, id) WHERE position IS NULL
--
-- What was published with an idempotency key, whether or not the event itself is still kept.
-- Without a position: it is in the outbox.
CREATE UNLOGGED TABLE flosse_bus_key (
    bus text COLLATE "C" NOT NULL,
    key text COLLATE "C" NOT NULL,
    until timestamptz NOT NULL,
    position bigint,
    previous bigint,
    published_at timestamptz,
    raw boolean NOT NULL,
    topic text COLLATE "C" NOT NULL,
    epoch text,
    event text,
    body bytea NOT NULL,
    PRIMARY KEY (bus, key)
)
--
CREATE INDEX flosse_bus_key_until ON flosse_bus_key (bus, until)
