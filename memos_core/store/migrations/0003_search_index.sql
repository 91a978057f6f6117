-- Search in views that are too large to be read row by row. A search index is a copy of a view's
-- vectors with an HNSW index over them, and lists of where each word occurs. It is built beside the
-- writers: what they write since is in `unindexed`, and searched row by row, until `extend_index`
-- moves it over. A memory of the view is always in one of the two.

-- The turns around a turn.
CREATE INDEX cube_turn ON memos.cube (tenant, thread, turn, id) WHERE thread IS NOT NULL;

-- Of a view there are two while the second is built to replace the first. `built_at` is NULL until
-- an index is whole; `cubes` and `words` count what it holds, `first_cubes` what it held when built.
CREATE TABLE memos.search_index (
    tenant text COLLATE "C" NOT NULL,
    id integer GENERATED ALWAYS AS IDENTITY,
    namespace text[] COLLATE "C" NOT NULL,
    built_at timestamptz,
    cubes bigint NOT NULL DEFAULT 0,
    words bigint NOT NULL DEFAULT 0,
    first_cubes bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (tenant, id)
);

CREATE TABLE memos.unindexed (
    tenant text COLLATE "C" NOT NULL,
    index integer NOT NULL,
    id uuid NOT NULL,
    PRIMARY KEY (tenant, index, id)
);

-- One partition for each index. The vectors get their width when the first is begun. Up to four
-- turns that follow each other share a block, and the next four of their thread have the next number.
-- What stands alone has a block of its own, and none has the number after it.
CREATE TABLE memos.indexed (
    tenant text COLLATE "C" NOT NULL,
    index integer NOT NULL,
    block integer NOT NULL,
    id uuid NOT NULL,
    version integer NOT NULL,
    alone boolean NOT NULL,
    word_count integer NOT NULL,
    terms integer[] NOT NULL,
    embedding halfvec NOT NULL
) PARTITION BY LIST (index);
ALTER TABLE memos.indexed ALTER embedding SET STORAGE MAIN;

-- How many cubes of an index have a term, and where: in which windows of two blocks, so that any five
-- turns in a row are together in one. A window is 32 times its first block, and a class of how long
-- its memories are: what a word counts for depends on it. Of a frequent term, the best are listed.
CREATE TABLE memos.indexed_term (
    tenant text COLLATE "C" NOT NULL,
    index integer NOT NULL,
    term integer NOT NULL,
    cubes integer NOT NULL,
    windows integer[] NOT NULL,
    PRIMARY KEY (tenant, index, term)
);

CREATE FUNCTION memos.max_windows() RETURNS integer
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS 'SELECT 5000';

-- The first blocks of the windows that a memory is in; the last is its own.
CREATE FUNCTION memos.spots(block integer, alone boolean) RETURNS integer[]
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE WHEN alone THEN ARRAY[block] ELSE ARRAY[block - 1, block] END
$$;

-- The terms of a memory's words, without how often they occur.
CREATE FUNCTION memos.terms_of(words sparsevec) RETURNS integer[]
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT coalesce(array_agg(place) FILTER (WHERE place <= 500000000), '{}')
    FROM unnest(string_to_array(btrim(split_part(words::text, '/', 1), '{}'), ',')) AS entry,
        CAST(split_part(entry, ':', 1) AS integer) AS place
$$;

-- Count and list the words of an index, or of the table that will be its partition, after a block. The
-- best windows are those of short memories.
CREATE FUNCTION memos.count_terms(
    of_tenant text, of_index integer, part regclass, last integer
) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format(
        $sql$
            INSERT INTO memos.indexed_term AS known (tenant, index, term, cubes, windows)
            WITH entry AS (
                SELECT block, terms, word_count, spot
                FROM %s, unnest(memos.spots(block, alone)) AS spot
                WHERE index = $2 AND block > $3
            ), measured AS (
                SELECT spot, least(31, avg(least(word_count, 60)) / 2)::integer AS length
                FROM entry GROUP BY spot
            )
            SELECT
                $1, $2, term, sum(cubes),
                (array_agg(32 * spot + length ORDER BY length, spot DESC))[:memos.max_windows()]
            FROM (
                SELECT term, spot, count(*) FILTER (WHERE spot = block) AS cubes
                FROM entry, unnest(terms) AS term
                GROUP BY term, spot
            ) AS heard JOIN measured USING (spot)
            GROUP BY term
            ORDER BY term
            ON CONFLICT (tenant, index, term) DO UPDATE SET
                cubes = known.cubes + excluded.cubes,
                windows = (excluded.windows || known.windows)[:memos.max_windows()]
        $sql$,
        part
    ) USING of_tenant, of_index, last;
END
$$;

-- Copy memories into an index, or into the table that will be its partition; the last block that was
-- taken before.
CREATE FUNCTION memos.put_in(of_tenant text, of_index integer, ids uuid[], part regclass)
RETURNS integer
LANGUAGE plpgsql AS $$
DECLARE
    last integer;
BEGIN
    EXECUTE format('SELECT coalesce(max(block), 0) FROM %s WHERE index = $1', part)
        INTO last USING of_index;
    EXECUTE format(
        $sql$
            INSERT INTO %s
            SELECT
                tenant, $2, block, id, version, thread IS NULL, word_count,
                memos.terms_of(words), embedding
            FROM (
                SELECT at.id, ($4 + sum(step) OVER (ORDER BY thread, turn, at.id))::integer AS block
                FROM (
                    SELECT
                        cube.id, thread, turn,
                        CASE
                            WHEN thread IS NULL OR row_number() OVER said = 1 THEN 2
                            WHEN row_number() OVER said %% 4 = 1 THEN 1
                            ELSE 0
                        END AS step
                    FROM memos.cube WHERE tenant = $1 AND id = ANY($3)
                    WINDOW said AS (PARTITION BY thread ORDER BY turn, cube.id)
                ) AS at
            ) AS placed
            JOIN memos.cube USING (id)
            WHERE tenant = $1
        $sql$,
        part
    ) USING of_tenant, of_index, ids, last;
    RETURN last;
END
$$;

-- Take memories out of an index: their vectors, and what its counts and lists say of their words.
CREATE FUNCTION memos.take_out(of_tenant text, of_index integer, ids uuid[]) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    IF NOT EXISTS (
        SELECT FROM memos.indexed WHERE tenant = of_tenant AND index = of_index AND id = ANY(ids)
    ) THEN
        RETURN;
    END IF;
    -- Before any of the terms' rows, so that two who take out do not wait for each other.
    PERFORM FROM memos.search_index WHERE tenant = of_tenant AND id = of_index FOR UPDATE;
    WITH gone AS MATERIALIZED (
        SELECT id, block, alone, word_count, terms FROM memos.indexed
        WHERE tenant = of_tenant AND index = of_index AND id = ANY(ids)
    ), counted AS (
        UPDATE memos.search_index SET
            cubes = cubes - (SELECT count(*) FROM gone),
            words = words - (SELECT sum(word_count) FROM gone)
        WHERE tenant = of_tenant AND id = of_index
    ), staying AS (
        SELECT spot, terms
        FROM (
            SELECT DISTINCT spot FROM gone, unnest(memos.spots(block, alone)) AS spot
            WHERE NOT alone
        ) AS shared CROSS JOIN LATERAL (
            SELECT id, terms FROM memos.indexed
            WHERE index = of_index AND block IN (spot, spot + 1) OFFSET 0
        ) AS entry
        WHERE id NOT IN (SELECT gone.id FROM gone)
    ), unheard AS (
        SELECT term, spot
        FROM gone, unnest(terms) AS term, unnest(memos.spots(block, alone)) AS spot
        EXCEPT
        SELECT term, spot FROM staying, unnest(terms) AS term
    ), less AS MATERIALIZED (
        SELECT
            term, count(*) FILTER (WHERE spot IS NULL) AS cubes,
            array_agg(spot) FILTER (WHERE spot IS NOT NULL) AS spots
        FROM (
            SELECT term, NULL::integer AS spot FROM gone, unnest(terms) AS term
            UNION ALL
            SELECT term, spot FROM unheard
        ) AS both_kinds
        GROUP BY term
    ), emptied AS (
        DELETE FROM memos.indexed_term AS known USING less
        WHERE known.tenant = of_tenant AND known.index = of_index AND known.term = less.term
            AND known.cubes <= less.cubes
    ), lessened AS (
        UPDATE memos.indexed_term AS known SET
            cubes = known.cubes - less.cubes,
            windows = ARRAY(
                SELECT spot FROM unnest(known.windows) WITH ORDINALITY AS listed (spot, place)
                WHERE spot / 32 NOT IN (SELECT unnest(less.spots))  -- hashed, once a term
                ORDER BY place
            )
        FROM less
        WHERE known.tenant = of_tenant AND known.index = of_index AND known.term = less.term
            AND known.cubes > less.cubes
    )
    DELETE FROM memos.indexed
    WHERE tenant = of_tenant AND index = of_index AND id = ANY(ids);
END
$$;

-- What a change of memories does to the indexes of their tenant: none holds them any more. Those of
-- the views in which they live on, at the path that is given, will take them in again.
CREATE FUNCTION memos.unindex(of_tenant text, ids uuid[], path text[] DEFAULT NULL) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    one record;
BEGIN
    FOR one IN SELECT * FROM memos.search_index WHERE tenant = of_tenant ORDER BY id LOOP
        PERFORM memos.take_out(of_tenant, one.id, ids);
        IF path IS NULL THEN
            DELETE FROM memos.unindexed
            WHERE tenant = of_tenant AND index = one.id AND id = ANY(ids);
        ELSIF one.namespace = path[:cardinality(one.namespace)] THEN
            INSERT INTO memos.unindexed (tenant, index, id)
            SELECT of_tenant, one.id, unnest(ids) ON CONFLICT DO NOTHING;
        END IF;
    END LOOP;
END
$$;

-- Begin an index of a view, or go on with one whose builder failed; NULL where there is no vector
-- yet. Once this is committed, all that is written goes to `unindexed` as well: the lock waits for
-- those who did not know of it. The vectors' width is changed here, so that nobody waits for a build.
CREATE FUNCTION memos.begin_index(of_tenant text, path text[]) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS $$
DECLARE
    vectors text := (
        SELECT extnamespace::regnamespace::text FROM pg_extension WHERE extname = 'vector'
    );
    width integer := (SELECT value ->> 'width' FROM memos.setting WHERE key = 'embedder');
    begun integer;
BEGIN
    IF width <> (
        SELECT atttypmod FROM pg_attribute
        WHERE attrelid = 'memos.indexed'::regclass AND attname = 'embedding'
    ) THEN
        EXECUTE format(
            'ALTER TABLE memos.indexed ALTER embedding TYPE %s.halfvec(%s)', vectors, width
        );
    END IF;
    PERFORM memos.lock_against_writers();
    SELECT id INTO begun FROM memos.search_index
    WHERE tenant = of_tenant AND namespace = path AND built_at IS NULL;
    IF begun IS NULL AND width IS NOT NULL THEN
        INSERT INTO memos.search_index (tenant, namespace) VALUES (of_tenant, path)
        RETURNING id INTO begun;
    END IF;
    RETURN begun;
END
$$;

-- Build what `begin_index` began, in a later transaction and with the owner's rights; false where
-- somebody else did (or does, unless they are waited for), or where the vectors were replaced
-- meanwhile. Writers wait for the end only, when what they changed meanwhile is taken out again.
-- `after` is where the view's paths end.
CREATE FUNCTION memos.build_index(
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
        WHERE tenant = of_tenant AND namespace >= path AND namespace < after
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

-- Move up to so many of the memories that were written since into an index; how many were, 0 where
-- somebody else is at it. Who changes one of them waits.
CREATE FUNCTION memos.extend_index(of_tenant text, of_index integer, most integer) RETURNS integer
LANGUAGE plpgsql AS $$
DECLARE
    late uuid[];
    moved uuid[];
    last integer;
BEGIN
    IF NOT pg_try_advisory_xact_lock(hashtextextended('memos.search_index', of_index))
        OR NOT EXISTS (
            SELECT FROM memos.search_index
            WHERE tenant = of_tenant AND id = of_index AND built_at IS NOT NULL
        ) THEN
        RETURN 0;
    END IF;
    late := ARRAY(
        SELECT id FROM memos.unindexed WHERE tenant = of_tenant AND index = of_index
        ORDER BY id LIMIT most
    );
    moved := ARRAY(
        SELECT id FROM memos.cube WHERE tenant = of_tenant AND id = ANY(late)
        ORDER BY id FOR SHARE
    );
    last := memos.put_in(of_tenant, of_index, moved, 'memos.indexed');
    -- Before any of the terms' rows, as in `take_out`; and late, since the vectors took long.
    PERFORM FROM memos.search_index WHERE tenant = of_tenant AND id = of_index FOR UPDATE;
    PERFORM memos.count_terms(of_tenant, of_index, 'memos.indexed', last);
    UPDATE memos.search_index SET
        cubes = cubes + cardinality(moved),
        words = words + (
            SELECT coalesce(sum(word_count), 0) FROM memos.cube
            WHERE tenant = of_tenant AND id = ANY(moved)
        )
    WHERE tenant = of_tenant AND id = of_index;
    DELETE FROM memos.unindexed
    WHERE tenant = of_tenant AND index = of_index AND id = ANY(late);
    RETURN cardinality(late);
END
$$;

-- Remove an index, with the owner's rights. Writers wait, and so do those who search by another.
CREATE FUNCTION memos.drop_index(of_tenant text, of_index integer) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS $$
BEGIN
    PERFORM memos.lock_against_writers();
    DELETE FROM memos.search_index WHERE tenant = of_tenant AND id = of_index;
    DELETE FROM memos.unindexed WHERE tenant = of_tenant AND index = of_index;
    DELETE FROM memos.indexed_term WHERE tenant = of_tenant AND index = of_index;
    EXECUTE format('DROP TABLE IF EXISTS memos.%I', 'indexed_' || of_index);
END
$$;
