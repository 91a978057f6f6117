-- Lifecycle, lineage, and who may do what.

-- `content_version` is the version at which what a cube says was last changed: its state, tags and
-- priority may change, and what was made of it stands. `derived` tells that it was made of others.
ALTER TABLE memos.cube ADD content_version integer, ADD derived boolean NOT NULL DEFAULT false;
ALTER TABLE memos.cube_version
    ADD content_version integer, ADD derived boolean NOT NULL DEFAULT false;
UPDATE memos.cube SET content_version = version;
UPDATE memos.cube_version SET content_version = version;
ALTER TABLE memos.cube ALTER content_version SET NOT NULL;
ALTER TABLE memos.cube_version ALTER content_version SET NOT NULL;
ALTER TABLE memos.cube ADD CHECK (state <> 'expired');  -- those live in cube_version alone

-- That a cube was read for the first time: a state that no read can write into the cube itself, since
-- readers update nothing that they read.
CREATE TABLE memos.activation (
    tenant text COLLATE "C" NOT NULL,
    cube uuid NOT NULL,
    at timestamptz NOT NULL,
    PRIMARY KEY (tenant, cube)
);

-- What was made of what: a child, and each parent at the version whose words it holds. The parents of
-- a bundle have an order. `contradicts` and `about` only say how two cubes are related.
CREATE TABLE memos.lineage (
    tenant text COLLATE "C" NOT NULL,
    child uuid NOT NULL,
    parent uuid NOT NULL,
    relation text NOT NULL CHECK (
        relation IN ('derived', 'extracted', 'merged', 'composed', 'contradicts', 'about')
    ),
    parent_version integer NOT NULL,
    position integer NOT NULL,
    recorded_at timestamptz NOT NULL,
    PRIMARY KEY (tenant, child, parent, relation)
);
CREATE INDEX lineage_parent ON memos.lineage (tenant, parent);

-- All whose words are in a cube, however many steps away, each with its content's version: one look
-- tells whether the cube may still be served.
CREATE TABLE memos.source (
    tenant text COLLATE "C" NOT NULL,
    cube uuid NOT NULL,
    source uuid NOT NULL,
    source_version integer NOT NULL,
    PRIMARY KEY (tenant, cube, source)
);
CREATE INDEX source_source ON memos.source (tenant, source);

-- Who may do what. A grant is about one cube, or about all with a tag, or about all, at a path and
-- below; and only about those of one holder, where one is named. It is for a user, for a role, or for
-- everyone, and in force while the caller's context contains the condition.
CREATE TABLE memos.permission (
    tenant text COLLATE "C" NOT NULL,
    id uuid NOT NULL,
    namespace text[] COLLATE "C" NOT NULL,
    cube uuid,
    tag text,
    holder text,
    to_user text,
    to_role text,
    rights text[] NOT NULL CHECK (
        cardinality(rights) > 0 AND rights <@ ARRAY['read', 'write', 'share', 'derive']
    ),
    condition jsonb NOT NULL,
    expires_at timestamptz,
    granted_by text,
    granted_at timestamptz NOT NULL,
    PRIMARY KEY (tenant, id),
    CHECK (tenant = namespace[1]),
    CHECK (to_user IS NULL OR to_role IS NULL)
);
CREATE INDEX permission_user ON memos.permission (tenant, to_user);
CREATE INDEX permission_cube ON memos.permission (tenant, cube) WHERE cube IS NOT NULL;

-- What a caller was granted: cubes by their ids, and the rest as places.
CREATE TYPE memos.place AS (path text[] COLLATE "C", label text, holder_of text);

CREATE FUNCTION memos.in_force(of_tenant text, asker jsonb, wanted text)
RETURNS SETOF memos.permission
LANGUAGE sql STABLE PARALLEL SAFE ROWS 10 AS $$
    SELECT * FROM memos.permission
    WHERE tenant = of_tenant
        AND (to_user = asker ->> 'user' OR to_user IS NULL)
        AND (to_role IS NULL OR asker -> 'roles' ? to_role)
        AND wanted = ANY(rights)
        AND (expires_at IS NULL OR expires_at > now())
        AND asker -> 'context' @> condition
$$;

CREATE FUNCTION memos.granted_cubes(of_tenant text, asker jsonb, wanted text) RETURNS SETOF uuid
LANGUAGE sql STABLE PARALLEL SAFE ROWS 10 AS $$
    SELECT cube FROM memos.in_force(of_tenant, asker, wanted) WHERE cube IS NOT NULL
$$;

CREATE FUNCTION memos.granted_places(of_tenant text, asker jsonb, wanted text)
RETURNS memos.place[]
LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT array_agg(ROW(namespace, tag, holder)::memos.place)
    FROM memos.in_force(of_tenant, asker, wanted) WHERE cube IS NULL
$$;

-- Move cubes to the versions, where their history stays: as they were, and as a last version that says
-- that they expired. In no index is anything of them left.
CREATE FUNCTION memos.expire(of_tenant text, ids uuid[], moment timestamptz) RETURNS void
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
        content_version, derived
    )
    SELECT
        at, tenant, id, namespace, kind, step.state, step.version, text, semantic_type, tags,
        metadata, provenance, message_ids, owner, priority, sensitivity, valid_from, valid_to,
        created_at, step.recorded_at, expires_at, word_count, words, thread, turn, embedding,
        content_version, derived
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

-- Let what was merged into these cubes speak for itself again, unless it is in another that stands.
CREATE FUNCTION memos.unmerge(of_tenant text, children uuid[], moment timestamptz) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    freed uuid[];
    one record;
BEGIN
    LOCK TABLE memos.cube_version IN ROW EXCLUSIVE MODE;
    -- First, so that of two fusions that end at once the second sees that the first has.
    PERFORM FROM memos.cube
    WHERE tenant = of_tenant AND state = 'merged' AND id IN (
        SELECT parent FROM memos.lineage
        WHERE tenant = of_tenant AND child = ANY(children) AND relation = 'merged'
    )
    ORDER BY id FOR UPDATE;
    freed := ARRAY(
        SELECT id FROM memos.cube
        WHERE tenant = of_tenant AND state = 'merged' AND id <> ALL(children) AND id IN (
            SELECT parent FROM memos.lineage
            WHERE tenant = of_tenant AND child = ANY(children) AND relation = 'merged'
        ) AND NOT EXISTS (
            SELECT FROM memos.lineage
            JOIN memos.cube AS other ON other.tenant = of_tenant AND other.id = child
            WHERE lineage.tenant = of_tenant AND parent = cube.id AND relation = 'merged'
                AND child <> ALL(children)
        )
        ORDER BY id FOR UPDATE
    );
    INSERT INTO memos.cube_version
    SELECT greatest(moment, recorded_at + interval '1 microsecond'), cube.* FROM memos.cube
    WHERE tenant = of_tenant AND id = ANY(freed);
    UPDATE memos.cube SET
        state = 'activated', version = version + 1,
        recorded_at = greatest(moment, recorded_at + interval '1 microsecond')
    WHERE tenant = of_tenant AND id = ANY(freed);
    INSERT INTO memos.event (tenant, at, kind, namespace, caller, cube_ids, details)
    SELECT
        of_tenant, max(recorded_at), 'activated', namespace, NULL, array_agg(id ORDER BY id),
        jsonb_build_object('because_of', to_jsonb(children))
    FROM memos.cube WHERE tenant = of_tenant AND id = ANY(freed)
    GROUP BY namespace;
    FOR one IN SELECT id, namespace FROM memos.cube WHERE tenant = of_tenant AND id = ANY(freed) LOOP
        PERFORM memos.unindex(of_tenant, ARRAY[one.id], one.namespace);
    END LOOP;
END
$$;

-- End what was made of cubes that say something else now, or nothing any more: it expires, and what it
-- was made of speaks for itself. What is frozen stays, and is not served. Those that ended.
CREATE FUNCTION memos.invalidate(
    of_tenant text, changed uuid[], moment timestamptz, asker jsonb
) RETURNS uuid[]
LANGUAGE plpgsql AS $$
DECLARE
    fallen uuid[];
BEGIN
    fallen := ARRAY(
        SELECT id FROM memos.cube
        WHERE tenant = of_tenant AND state <> 'frozen' AND id IN (
            SELECT cube FROM memos.source WHERE tenant = of_tenant AND source = ANY(changed)
        )
        ORDER BY id FOR UPDATE
    );
    IF cardinality(fallen) = 0 THEN
        RETURN fallen;
    END IF;
    INSERT INTO memos.event (tenant, at, kind, namespace, caller, cube_ids, details)
    SELECT
        of_tenant, moment, 'invalidated', namespace, asker, array_agg(id ORDER BY id),
        jsonb_build_object('because_of', to_jsonb(changed))
    FROM memos.cube WHERE tenant = of_tenant AND id = ANY(fallen)
    GROUP BY namespace;
    PERFORM memos.unmerge(of_tenant, fallen, moment);
    PERFORM memos.expire(of_tenant, fallen, moment);
    RETURN fallen;
END
$$;

-- Remove cubes with all that is kept of them; how many versions that were. What was merged into them
-- speaks for itself again.
CREATE FUNCTION memos.erase(of_tenant text, ids uuid[]) RETURNS bigint
LANGUAGE plpgsql AS $$
DECLARE
    superseded bigint;
    current bigint;
BEGIN
    PERFORM memos.unmerge(of_tenant, ids, clock_timestamp());
    DELETE FROM memos.cube_version WHERE tenant = of_tenant AND id = ANY(ids);
    GET DIAGNOSTICS superseded = ROW_COUNT;
    DELETE FROM memos.cube WHERE tenant = of_tenant AND id = ANY(ids);
    GET DIAGNOSTICS current = ROW_COUNT;
    DELETE FROM memos.reembedding WHERE tenant = of_tenant AND id = ANY(ids);
    DELETE FROM memos.activation WHERE tenant = of_tenant AND cube = ANY(ids);
    DELETE FROM memos.lineage WHERE tenant = of_tenant AND (child = ANY(ids) OR parent = ANY(ids));
    DELETE FROM memos.source WHERE tenant = of_tenant AND (cube = ANY(ids) OR source = ANY(ids));
    DELETE FROM memos.permission WHERE tenant = of_tenant AND cube = ANY(ids);
    PERFORM memos.unindex(of_tenant, ids);
    RETURN superseded + current;
END
$$;

-- Make room for a bundle of the same name; the version it had last, 0 where there was none. Nothing of
-- its history stays: it holds the words of cubes that the new one may know nothing of. Who may read it
-- may read the next.
CREATE FUNCTION memos.unmake(of_tenant text, bundle uuid, asker jsonb) RETURNS integer
LANGUAGE plpgsql AS $$
DECLARE
    last integer := (
        SELECT max(version) FROM (
            SELECT version FROM memos.cube WHERE tenant = of_tenant AND id = bundle
            UNION ALL
            SELECT version FROM memos.cube_version WHERE tenant = of_tenant AND id = bundle
        ) AS every
    );
BEGIN
    PERFORM memos.invalidate(of_tenant, ARRAY[bundle], clock_timestamp(), asker);
    DELETE FROM memos.cube_version WHERE tenant = of_tenant AND id = bundle;
    DELETE FROM memos.cube WHERE tenant = of_tenant AND id = bundle;
    DELETE FROM memos.reembedding WHERE tenant = of_tenant AND id = bundle;
    DELETE FROM memos.activation WHERE tenant = of_tenant AND cube = bundle;
    DELETE FROM memos.lineage
    WHERE tenant = of_tenant AND child = bundle AND relation NOT IN ('contradicts', 'about');
    DELETE FROM memos.source WHERE tenant = of_tenant AND cube = bundle;
    PERFORM memos.unindex(of_tenant, ARRAY[bundle]);
    RETURN coalesce(last, 0);
END
$$;

-- What a sweep ends.
CREATE INDEX cube_expiry ON memos.cube (tenant, expires_at) WHERE expires_at IS NOT NULL;

-- Drop the months of the audit log that ended before a moment, with the owner's rights; which ones.
CREATE FUNCTION memos.drop_event_partitions(before timestamptz) RETURNS text[]
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS $$
DECLARE
    name text;
    dropped text[] := '{}';
BEGIN
    FOR name IN
        SELECT relname FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid
        WHERE inhparent = 'memos.event'::regclass AND relname ~ '^event_\d{4}_\d{2}$'
            AND (to_date(right(relname, 7), 'YYYY_MM') + interval '1 month')::timestamp
                AT TIME ZONE 'UTC' <= before
        ORDER BY relname
    LOOP
        EXECUTE format('DROP TABLE memos.%I', name);
        dropped := dropped || substr(name, 7);
    END LOOP;
    RETURN dropped;
END
$$;

-- What is allowed at a path and below, unless nearer rules say otherwise. `after` is where the paths
-- below end; each change has a new version.
CREATE SEQUENCE memos.rules_version;
CREATE TABLE memos.rules (
    tenant text COLLATE "C" NOT NULL,
    namespace text[] COLLATE "C" NOT NULL,
    after text[] COLLATE "C" NOT NULL,
    rules jsonb NOT NULL,
    version bigint NOT NULL DEFAULT nextval('memos.rules_version'),
    PRIMARY KEY (tenant, namespace)
);

-- True while the rules in force at a path are those that the caller knows, 0 for none; else an error,
-- so that nothing is written by rules that others changed since.
CREATE FUNCTION memos.ruled_by(of_tenant text, path text[], known bigint) RETURNS boolean
LANGUAGE plpgsql STABLE AS $$
BEGIN
    IF known <> coalesce((
        SELECT version FROM memos.rules
        WHERE tenant = of_tenant AND namespace = path[:cardinality(namespace)]
        ORDER BY cardinality(namespace) DESC LIMIT 1
    ), 0) THEN
        RAISE EXCEPTION 'the rules of this namespace changed' USING ERRCODE = 'ME002';
    END IF;
    RETURN true;
END
$$;
