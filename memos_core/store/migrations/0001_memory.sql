-- Everything lives in its own schema. Keys start with the tenant: it isolates, and it is the
-- distribution column on Citus. Labels compare by bytes, so that a path and all below it are one
-- range of the index on (tenant, namespace).

CREATE TABLE memos.setting (
    key text PRIMARY KEY,
    value jsonb NOT NULL
);

-- The current version of each memory, with all that search needs in one row.
CREATE TABLE memos.cube (
    tenant text COLLATE "C" NOT NULL,
    id uuid NOT NULL,
    namespace text[] COLLATE "C" NOT NULL,
    kind text NOT NULL CHECK (kind IN ('plaintext', 'activation', 'parametric')),
    state text NOT NULL CHECK (
        state IN ('generated', 'activated', 'merged', 'archived', 'expired', 'frozen')
    ),
    version integer NOT NULL CHECK (version > 0),
    text text NOT NULL,
    semantic_type text NOT NULL,
    tags text[] NOT NULL,
    metadata jsonb NOT NULL,
    provenance jsonb NOT NULL,
    message_ids text[] NOT NULL,
    owner text,
    priority integer NOT NULL,
    sensitivity text[] NOT NULL,
    valid_from timestamptz,
    valid_to timestamptz,
    created_at timestamptz NOT NULL,
    recorded_at timestamptz NOT NULL,
    expires_at timestamptz,
    word_count integer NOT NULL,
    words jsonb NOT NULL,  -- lexeme to how often it occurs; looked up 4 x faster than in a tsvector
    embedding halfvec NOT NULL,
    PRIMARY KEY (tenant, id),
    CHECK (tenant = namespace[1])
);
-- In line as long as it fits a page (some 4,000 dimensions): elsewhere, every distance would cost a
-- second read.
ALTER TABLE memos.cube ALTER embedding SET STORAGE MAIN;
CREATE INDEX cube_namespace ON memos.cube (tenant, namespace);

-- Versions that an update or a restore replaced. The first column, so that a column added to both
-- tables later keeps `SELECT now, cube.*` in order.
CREATE TABLE memos.cube_version (
    superseded_at timestamptz NOT NULL,
    LIKE memos.cube INCLUDING STORAGE,
    PRIMARY KEY (tenant, id, version)
);
CREATE INDEX cube_version_namespace ON memos.cube_version (tenant, namespace);

-- What was said, before anything is made of it. `due_at` is when a reader may make cubes of it, each
-- failed attempt later than the last, and NULL once that is done; `retired_at` when it left its
-- session's history; `forgotten_at` when its content was erased (the id stays, so that a client that
-- sends it again does not bring it back). `utc_offset` are the minutes that the speaker's clock was
-- ahead of UTC: his day may be another than UTC's.
CREATE TABLE memos.message (
    tenant text COLLATE "C" NOT NULL,
    namespace text[] COLLATE "C" NOT NULL,
    id text COLLATE "C" NOT NULL,
    session text COLLATE "C" NOT NULL,
    position bigint GENERATED ALWAYS AS IDENTITY,
    role text NOT NULL,
    name text,
    content text NOT NULL,
    metadata jsonb NOT NULL,
    extra jsonb NOT NULL,
    created_at timestamptz,
    utc_offset integer,
    created_by text,
    recorded_at timestamptz NOT NULL,
    due_at timestamptz,
    attempts integer NOT NULL DEFAULT 0,
    retired_at timestamptz,
    forgotten_at timestamptz,
    PRIMARY KEY (tenant, namespace, session, id)
);
CREATE INDEX message_session ON memos.message (tenant, namespace, session, position);
CREATE INDEX message_due ON memos.message (tenant, namespace, due_at) WHERE due_at IS NOT NULL;

-- The append-only audit log. No foreign key: it outlives cubes, and one would make reads fail while
-- others forget.
CREATE SEQUENCE memos.event_id;
CREATE TABLE memos.event (
    tenant text COLLATE "C" NOT NULL,
    at timestamptz NOT NULL,
    id bigint NOT NULL DEFAULT nextval('memos.event_id'),
    kind text NOT NULL,
    namespace text[] COLLATE "C" NOT NULL,
    caller jsonb,
    cube_ids uuid[] NOT NULL,
    details jsonb NOT NULL,
    PRIMARY KEY (tenant, at, id)
) PARTITION BY RANGE (at);
CREATE TABLE memos.event_rest PARTITION OF memos.event DEFAULT;
CREATE INDEX event_cube ON memos.event USING gin (cube_ids);

-- Make the partitions of this month and the given number of months to come, with the owner's rights.
-- A month whose events already lie in the default partition stays there. To attach one waits for
-- nobody who reads or writes the others.
CREATE FUNCTION memos.make_event_partitions(months integer) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS $$
DECLARE
    first date := date_trunc('month', now() AT TIME ZONE 'UTC')::date;
    start date;
    name text;
BEGIN
    FOR ahead IN 0..months LOOP
        start := (first + make_interval(months => ahead))::date;
        name := 'event_' || to_char(start, 'YYYY_MM');
        CONTINUE WHEN to_regclass('memos.' || name) IS NOT NULL;
        CONTINUE WHEN EXISTS (
            SELECT FROM memos.event_rest
            WHERE at >= start::timestamp AT TIME ZONE 'UTC'
        );
        EXECUTE format('CREATE TABLE memos.%I (LIKE memos.event INCLUDING DEFAULTS)', name);
        EXECUTE format(
            'ALTER TABLE memos.event ATTACH PARTITION memos.%I FOR VALUES FROM (%L) TO (%L)',
            name,
            start::timestamp AT TIME ZONE 'UTC',
            (start + interval '1 month')::timestamp AT TIME ZONE 'UTC'
        );
    END LOOP;
END
$$;

-- New embeddings on their way in, until `reembed` has all of a model's and swaps them.
CREATE TABLE memos.reembedding (
    tenant text COLLATE "C" NOT NULL,
    id uuid NOT NULL,
    version integer NOT NULL,
    model jsonb NOT NULL,
    embedding halfvec NOT NULL,
    PRIMARY KEY (tenant, id, version, model)
);

-- True while the database's vectors, if there are any, are those of this model, {"name", "width"};
-- else an error, so that no statement can mix the vectors of two models, even when `reembed` ran
-- since the caller last looked.
CREATE FUNCTION memos.embedded_by(model jsonb) RETURNS boolean
LANGUAGE plpgsql STABLE AS $$
DECLARE
    stored jsonb := (SELECT value FROM memos.setting WHERE key = 'embedder');
BEGIN
    IF stored <> model THEN
        RAISE EXCEPTION '%', stored USING ERRCODE = 'ME001';
    END IF;
    RETURN true;
END
$$;

-- Let the transaction read and change all cubes while writers wait, in the order in which they lock.
CREATE FUNCTION memos.lock_against_writers() RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    LOCK TABLE memos.cube_version, memos.cube IN SHARE ROW EXCLUSIVE MODE;
END
$$;

-- Put the new vectors of a model in place of the old, with the model's name and width, under that
-- lock and once every version has one.
CREATE FUNCTION memos.swap_embeddings(embedder jsonb) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    UPDATE memos.cube SET embedding = new.embedding FROM memos.reembedding AS new
    WHERE (cube.tenant, cube.id, cube.version) = (new.tenant, new.id, new.version)
        AND new.model = embedder;
    UPDATE memos.cube_version AS old SET embedding = new.embedding FROM memos.reembedding AS new
    WHERE (old.tenant, old.id, old.version) = (new.tenant, new.id, new.version)
        AND new.model = embedder;
    INSERT INTO memos.setting (key, value) VALUES ('embedder', embedder)
    ON CONFLICT (key) DO UPDATE SET value = excluded.value;
    DELETE FROM memos.reembedding;
END
$$;
