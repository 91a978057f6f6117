-- A second wall between tenants: row-level security, beside the conditions in every statement.

-- The setting `memos.tenant` says whose rows a transaction is about. A parameter of one of these
-- types sets it on its way in, until the transaction ends: with the message that brings the
-- statement, so that it costs no round trip and is safe under a pooler. `tenant_asked` also says that
-- somebody asks by name, who is the parameter of the type `caller`, and is to read what he may;
-- `tenant_unwalled` means all tenants: a value that is longer than a label can be.
CREATE FUNCTION memos.every_tenant() RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$ SELECT repeat('*', 1025) $$;
CREATE DOMAIN memos.tenant AS text COLLATE "C" CHECK (
    set_config('memos.tenant', value, true) IS NOT NULL
    AND set_config('memos.asked', '', true) IS NOT NULL
);
CREATE DOMAIN memos.tenant_asked AS text COLLATE "C" CHECK (
    set_config('memos.tenant', value, true) IS NOT NULL
    AND set_config('memos.asked', 'yes', true) IS NOT NULL
);
CREATE DOMAIN memos.tenant_unwalled AS text COLLATE "C" CHECK (
    set_config('memos.tenant', memos.every_tenant(), true) IS NOT NULL
    AND set_config('memos.asked', '', true) IS NOT NULL
);
CREATE DOMAIN memos.caller AS text CHECK (set_config('memos.caller', value, true) IS NOT NULL);

-- A namespace as one text, such that a path and all below it are one range of texts: labels in which
-- U+0001 is escaped, each with U+0001 after it. Behind the wall an index serves what compares texts,
-- which is known to leak nothing, and not what compares arrays.
CREATE FUNCTION memos.trail(namespace text[]) RETURNS text
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE AS $$
BEGIN
    IF array_to_string(namespace, '') !~ E'[\x01\x02]' THEN
        RETURN array_to_string(namespace, E'\x01') || E'\x01';
    END IF;
    RETURN (
        SELECT string_agg(
            replace(replace(label, E'\x02', E'\x02\x03'), E'\x01', E'\x02\x02') || E'\x01', ''
            ORDER BY place
        )
        FROM unnest(namespace) WITH ORDINALITY AS given (label, place)
    );
END
$$;

ALTER TABLE memos.cube
    ADD trail text COLLATE "C" GENERATED ALWAYS AS (memos.trail(namespace)) STORED;
ALTER TABLE memos.message
    ADD trail text COLLATE "C" GENERATED ALWAYS AS (memos.trail(namespace)) STORED;
ALTER TABLE memos.event
    ADD trail text COLLATE "C" GENERATED ALWAYS AS (memos.trail(namespace)) STORED;
ALTER TABLE memos.permission
    ADD trail text COLLATE "C" GENERATED ALWAYS AS (memos.trail(namespace)) STORED;
ALTER TABLE memos.staged_cube
    ADD trail text COLLATE "C" GENERATED ALWAYS AS (memos.trail(namespace)) STORED;
ALTER TABLE memos.staged_message
    ADD trail text COLLATE "C" GENERATED ALWAYS AS (memos.trail(namespace)) STORED;
-- Not generated, so that `SELECT now, cube.*` can be inserted.
ALTER TABLE memos.cube_version ADD trail text COLLATE "C";
UPDATE memos.cube_version SET trail = memos.trail(namespace);
ALTER TABLE memos.cube_version ALTER trail SET NOT NULL;

DROP INDEX memos.cube_namespace, memos.cube_version_namespace;
DROP INDEX memos.message_session, memos.message_due, memos.message_name;
ALTER TABLE memos.message
    DROP CONSTRAINT message_pkey, ADD PRIMARY KEY (tenant, trail, session, id);
CREATE INDEX cube_trail ON memos.cube (tenant, trail);
CREATE INDEX cube_version_trail ON memos.cube_version (tenant, trail);
CREATE INDEX message_session ON memos.message (tenant, trail, session, position);
CREATE INDEX message_due ON memos.message (tenant, trail, due_at) WHERE due_at IS NOT NULL;
CREATE INDEX message_name ON memos.message (tenant, trail, name) WHERE name IS NOT NULL;

-- As before, and with trails: partitions of the log have them, what expires takes its own along, and
-- an index finds by them what it is built of.
CREATE OR REPLACE FUNCTION memos.make_event_partitions(months integer) RETURNS void
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
        EXECUTE format(
            'CREATE TABLE memos.%I (LIKE memos.event INCLUDING DEFAULTS INCLUDING GENERATED)', name
        );
        EXECUTE format(
            'ALTER TABLE memos.event ATTACH PARTITION memos.%I FOR VALUES FROM (%L) TO (%L)',
            name,
            start::timestamp AT TIME ZONE 'UTC',
            (start + interval '1 month')::timestamp AT TIME ZONE 'UTC'
        );
    END LOOP;
END
$$;

CREATE OR REPLACE FUNCTION memos.expire(of_tenant text, ids uuid[], moment timestamptz) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    LOCK TABLE memos.cube_version IN ROW EXCLUSIVE MODE;  -- before the other, as everywhere
    WITH gone AS (
        DELETE FROM memos.cube WHERE tenant = of_tenant AND id = ANY(ids) RETURNING *
    )
    INSERT INTO memos.cube_version (
        superseded_at, tenant, id, namespace, kind, state, version, text, semantic_type, tags,
        metadata, provenance, message_ids, owner, priority, sensitivity, valid_from, valid_to,
        created_at, recorded_at, expires_at, word_count, words, thread, turn, embedding,
        content_version, derived, trail
    )
    SELECT
        at, tenant, id, namespace, kind, step.state, step.version, text, semantic_type, tags,
        metadata, provenance, message_ids, owner, priority, sensitivity, valid_from, valid_to,
        created_at, step.recorded_at, expires_at, word_count, words, thread, turn, embedding,
        content_version, derived, trail
    FROM gone
    CROSS JOIN LATERAL (
        SELECT greatest(moment, gone.recorded_at + interval '1 microsecond') AS at
    ) AS ended
    CROSS JOIN LATERAL (
        VALUES
            (gone.state, gone.version, gone.recorded_at),
            ('expired', gone.version + 1, at)
    ) AS step (state, version, recorded_at);
    PERFORM memos.unindex(of_tenant, ids);
END
$$;

CREATE OR REPLACE FUNCTION memos.build_index(
    of_tenant text, of_index integer, after text[], wait boolean
) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS $$
DECLARE
    part text := 'indexed_' || of_index;
    vectors text := (
        SELECT extnamespace::regnamespace::text FROM pg_extension WHERE extname = 'vector'
    );
    path text[];
    older integer;
BEGIN
    IF wait THEN
        PERFORM pg_advisory_xact_lock(hashtextextended('memos.search_index', of_index));
    ELSIF NOT pg_try_advisory_xact_lock(hashtextextended('memos.search_index', of_index)) THEN
        RETURN false;
    END IF;
    SELECT namespace INTO path FROM memos.search_index
    WHERE tenant = of_tenant AND id = of_index AND built_at IS NULL;
    IF path IS NULL THEN
        RETURN false;
    END IF;
    EXECUTE format('CREATE TABLE memos.%I (LIKE memos.indexed INCLUDING STORAGE)', part);
    EXECUTE format('ALTER TABLE memos.%I ADD CHECK (index = %s)', part, of_index);
    PERFORM memos.put_in(of_tenant, of_index, ARRAY(
        SELECT id FROM memos.cube
        WHERE tenant = of_tenant AND trail >= memos.trail(path)
            AND trail < left(memos.trail(path), -1) || E'\x02'
    ), ('memos.' || part)::regclass);
    PERFORM memos.count_terms(of_tenant, of_index, ('memos.' || part)::regclass, 0);
    EXECUTE format('ALTER TABLE memos.%I ADD PRIMARY KEY (tenant, id)', part);
    EXECUTE format('CREATE INDEX ON memos.%I (block)', part);
    EXECUTE format(
        'CREATE INDEX ON memos.%I USING hnsw (embedding %s.halfvec_cosine_ops)', part, vectors
    );
    EXECUTE format('ANALYZE memos.%I', part);

    PERFORM memos.lock_against_writers();
    EXECUTE format(
        $sql$
            UPDATE memos.search_index SET
                built_at = clock_timestamp(), (cubes, words, first_cubes) = (
                    SELECT count(*), coalesce(sum(word_count), 0), count(*) FROM memos.%I
                )
            WHERE tenant = $1 AND id = $2
        $sql$,
        part
    ) USING of_tenant, of_index;
    IF NOT EXISTS (SELECT FROM memos.search_index WHERE tenant = of_tenant AND id = of_index) THEN
        PERFORM memos.drop_index(of_tenant, of_index);
        RETURN false;
    END IF;
    EXECUTE format(
        'ALTER TABLE memos.indexed ATTACH PARTITION memos.%I FOR VALUES IN (%s)', part, of_index
    );
    PERFORM memos.take_out(of_tenant, of_index, ARRAY(
        SELECT id FROM memos.indexed AS entry
        WHERE index = of_index AND (
            NOT EXISTS (
                SELECT FROM memos.cube
                WHERE cube.tenant = of_tenant AND cube.id = entry.id
                    AND cube.version = entry.version
            ) OR id IN (
                SELECT late.id FROM memos.unindexed AS late
                WHERE late.tenant = of_tenant AND late.index = of_index
            )
        )
    ));
    FOR older IN
        SELECT id FROM memos.search_index
        WHERE tenant = of_tenant AND namespace = path AND id <> of_index
    LOOP
        PERFORM memos.drop_index(of_tenant, older);
    END LOOP;
    RETURN true;
END
$$;

-- How often a cube was read, and when last; and all that was done with it. With the owner's rights:
-- the index by which a cube is found in the log compares arrays.
CREATE FUNCTION memos.uses(
    of_tenant text, of_cube uuid, OUT reads bigint, OUT last_read_at timestamptz
)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog AS $$
BEGIN
    SELECT count(*), max(at) INTO reads, last_read_at FROM memos.event
    WHERE tenant = of_tenant AND cube_ids @> ARRAY[of_cube] AND kind IN ('read', 'searched');
END
$$;

CREATE FUNCTION memos.events_of(of_tenant text, of_cube uuid) RETURNS SETOF memos.event
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog AS $$
BEGIN
    RETURN QUERY SELECT * FROM memos.event
    WHERE tenant = of_tenant AND cube_ids @> ARRAY[of_cube];
END
$$;

-- A policy for one tenant's rows: no row of another is read, changed, or made. The setting is read
-- once a statement.
CREATE FUNCTION memos.one_tenant(walled regclass, name text, clause text) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format(
        $sql$
            CREATE POLICY %I ON %s %s (
                CASE (SELECT current_setting('memos.tenant', true))
                    WHEN tenant THEN true
                    WHEN memos.every_tenant() THEN true
                    ELSE false
                END
            )
        $sql$,
        name, walled, clause
    );
END
$$;

-- Wall in each table of tenants that has no policy of its own, against its owner too, and let the
-- role `memos_app` do all that is done behind the wall, where there is such a role. Partitions are
-- reached by their table alone. What is staged is not walled in, since COPY does not write into such
-- tables; it is once it is loaded. A migration that makes tables ends with this.
CREATE FUNCTION memos.raise_wall() RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    one record;
    app boolean := EXISTS (SELECT FROM pg_roles WHERE rolname = 'memos_app');
BEGIN
    FOR one IN
        SELECT
            oid::regclass AS name, relrowsecurity AS walled, relname <> 'event' AS changes,
            relname !~ '^staged_' AND EXISTS (
                SELECT FROM pg_attribute WHERE attrelid = pg_class.oid AND attname = 'tenant'
            ) AS of_tenants
        FROM pg_class
        WHERE relnamespace = 'memos'::regnamespace AND relkind IN ('r', 'p')
            AND NOT relispartition AND relname !~ '^indexed_\d+$' AND relname <> 'migration'
    LOOP
        IF one.of_tenants AND NOT one.walled THEN
            PERFORM memos.one_tenant(one.name, 'one_tenant', 'USING');
            EXECUTE format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY', one.name);
        END IF;
        IF one.of_tenants THEN
            EXECUTE format('ALTER TABLE %s FORCE ROW LEVEL SECURITY', one.name);
        END IF;
        IF app THEN
            EXECUTE format('GRANT SELECT, INSERT ON %s TO memos_app', one.name);
        END IF;
        IF app AND one.changes THEN
            EXECUTE format('GRANT UPDATE, DELETE ON %s TO memos_app', one.name);
        END IF;
    END LOOP;
    IF app THEN
        GRANT USAGE ON SCHEMA memos TO memos_app;
        GRANT USAGE ON ALL SEQUENCES IN SCHEMA memos TO memos_app;
        DROP POLICY IF EXISTS read_by_one_tenant ON memos.event;
        PERFORM memos.one_tenant(
            'memos.event', 'read_by_one_tenant', 'AS RESTRICTIVE FOR SELECT TO memos_app USING'
        );
    END IF;
END
$$;

-- Who asks by name, '' where nobody does, NULL where it is not said who; and what he may read.
CREATE FUNCTION memos.asker() RETURNS text
LANGUAGE sql STABLE AS $$
    SELECT CASE current_setting('memos.asked', true)
        WHEN 'yes' THEN nullif(current_setting('memos.caller', true), '')::jsonb ->> 'user'
        ELSE ''
    END
$$;

CREATE FUNCTION memos.readable()
RETURNS TABLE (of_cube uuid, path text[], label text, holder_of text)
LANGUAGE plpgsql STABLE ROWS 10 AS $$
BEGIN
    RETURN QUERY SELECT cube, namespace, tag, holder FROM memos.in_force(
        current_setting('memos.tenant', true),
        nullif(current_setting('memos.caller', true), '')::jsonb, 'read'
    );
END
$$;

-- A wall between callers, in statements that say that they read for one. What changes or ends cubes
-- has to see more than a caller may read, so there only the conditions in it hold.
CREATE POLICY readable ON memos.cube AS RESTRICTIVE FOR SELECT USING (
    CASE (SELECT memos.asker())
        WHEN '' THEN true
        WHEN owner THEN true
        ELSE owner IS NULL OR EXISTS (
            SELECT FROM memos.readable() WHERE of_cube = id OR of_cube IS NULL
                AND path = namespace[:cardinality(path)] AND (label IS NULL OR label = ANY(tags))
                AND (holder_of IS NULL OR holder_of = owner)
        )
    END
);
CREATE POLICY readable ON memos.cube_version AS RESTRICTIVE FOR SELECT USING (
    CASE (SELECT memos.asker())
        WHEN '' THEN true
        WHEN owner THEN true
        ELSE owner IS NULL OR EXISTS (
            SELECT FROM memos.readable() WHERE of_cube = id OR of_cube IS NULL
                AND path = namespace[:cardinality(path)] AND (label IS NULL OR label = ANY(tags))
                AND (holder_of IS NULL OR holder_of = owner)
        )
    END
);
CREATE POLICY readable ON memos.message AS RESTRICTIVE FOR SELECT USING (
    CASE (SELECT memos.asker())
        WHEN '' THEN true
        WHEN created_by THEN true
        ELSE created_by IS NULL OR EXISTS (
            SELECT FROM memos.readable() WHERE of_cube IS NULL
                AND path = namespace[:cardinality(path)] AND label IS NULL
                AND (holder_of IS NULL OR holder_of = created_by)
        )
    END
);

-- The log is read by an index that the wall would shut off. So its owner may read all of it, and
-- `memos_app`, for whom he looks there, one tenant's. Nobody changes it.
ALTER TABLE memos.event ENABLE ROW LEVEL SECURITY;
CREATE POLICY read ON memos.event FOR SELECT USING (true);
SELECT memos.one_tenant('memos.event', 'written_by_one_tenant', 'FOR INSERT WITH CHECK');
SELECT memos.raise_wall();
