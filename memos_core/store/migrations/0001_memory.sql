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

-- What was said, before anything is made of it. `read_at` is when cubes were made of it;
-- `retired_at` when it left its session's history; `forgotten_at` when its content was erased (the
-- id stays, so that a client that sends it again does not bring it back).
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
    created_at timestamptz,
    recorded_at timestamptz NOT NULL,
    read_at timestamptz,
    retired_at timestamptz,
    forgotten_at timestamptz,
    PRIMARY KEY (tenant, namespace, id)
);
CREATE INDEX message_session ON memos.message (tenant, namespace, session, position);
CREATE INDEX message_unread ON memos.message (tenant, namespace) WHERE read_at IS NULL;

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

-- Make the partitions of this month and the given number of months to come. A month whose events
-- already lie in the default partition stays there.
CREATE FUNCTION memos.make_event_partitions(months integer) RETURNS void
LANGUAGE plpgsql AS $$
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
        EXECUTE format(
            'CREATE TABLE memos.%I PARTITION OF memos.event FOR VALUES FROM (%L) TO (%L)',
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
    model text NOT NULL,
    embedding halfvec NOT NULL,
    PRIMARY KEY (tenant, id, version, model)
);

-- True while the database's vectors are those of this model; else an error, so that no statement
-- can mix the vectors of two models, even when `reembed` ran since the caller last looked.
CREATE FUNCTION memos.embedded_by(model text) RETURNS boolean
LANGUAGE plpgsql STABLE AS $$
DECLARE
    stored text := (SELECT value ->> 'name' FROM memos.setting WHERE key = 'embedder');
BEGIN
    IF stored IS DISTINCT FROM model THEN
        RAISE EXCEPTION '%', coalesce(stored, 'none') USING ERRCODE = 'ME001';
    END IF;
    RETURN true;
END
$$;

-- Put the new vectors of a model in place of the old, with the model's name and width; false, and
-- nothing done, where a version still lacks its vector. Writers wait meanwhile, readers do not.
CREATE FUNCTION memos.swap_embeddings(embedder jsonb) RETURNS boolean
LANGUAGE plpgsql AS $$
BEGIN
    LOCK TABLE memos.cube, memos.cube_version IN SHARE ROW EXCLUSIVE MODE;
    IF EXISTS (
        SELECT FROM (
            SELECT tenant, id, version FROM memos.cube
            UNION ALL
            SELECT tenant, id, version FROM memos.cube_version
        ) AS every
        WHERE NOT EXISTS (
            SELECT FROM memos.reembedding AS new
            WHERE (new.tenant, new.id, new.version) = (every.tenant, every.id, every.version)
                AND new.model = embedder ->> 'name'
        )
    ) THEN
        RETURN false;
    END IF;
    UPDATE memos.cube SET embedding = new.embedding FROM memos.reembedding AS new
    WHERE (cube.tenant, cube.id, cube.version) = (new.tenant, new.id, new.version)
        AND new.model = embedder ->> 'name';
    UPDATE memos.cube_version AS old SET embedding = new.embedding FROM memos.reembedding AS new
    WHERE (old.tenant, old.id, old.version) = (new.tenant, new.id, new.version)
        AND new.model = embedder ->> 'name';
    INSERT INTO memos.setting (key, value) VALUES ('embedder', embedder)
    ON CONFLICT (key) DO UPDATE SET value = excluded.value;
    DELETE FROM memos.reembedding;
    RETURN true;
END
$$;
