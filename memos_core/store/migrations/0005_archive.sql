-- Archives on their way in: they lie here part by part until all of one is there, and are then made
-- visible at once. `archive` names one loading: what is loaded, to where, and how. What lies here was
-- read from a file that can be read again, so it need not survive a crash of the server.

-- The parts that are here.
CREATE UNLOGGED TABLE memos.staged_part (
    tenant text COLLATE "C" NOT NULL,
    archive text COLLATE "C" NOT NULL,
    kind text NOT NULL,
    part integer NOT NULL,
    records integer NOT NULL,
    staged_at timestamptz NOT NULL,
    PRIMARY KEY (tenant, archive, kind, part)
);

-- The cubes in them: the id that each had, and the one it gets. One that was `known` is stored under
-- its id already, and nothing is to be made of it. What becomes of it is decided at the end: it is
-- loaded (NULL), 'replacing', 'skipped', or 'left out'.
CREATE UNLOGGED TABLE memos.staged_id (
    tenant text COLLATE "C" NOT NULL,
    archive text COLLATE "C" NOT NULL,
    was uuid NOT NULL,
    id uuid NOT NULL,
    known boolean NOT NULL,
    fate text,
    PRIMARY KEY (tenant, archive, was)
);
CREATE INDEX staged_id_id ON memos.staged_id (tenant, archive, id);

-- Every version of them; `superseded_at` is NULL for the one that stands, and what search needs for
-- those that were known.
CREATE UNLOGGED TABLE memos.staged_cube (
    archive text COLLATE "C" NOT NULL,
    superseded_at timestamptz,
    activated_at timestamptz,
    spoken boolean NOT NULL,  -- where its first message stands
    LIKE memos.cube INCLUDING STORAGE,
    PRIMARY KEY (tenant, archive, id, version)
);
ALTER TABLE memos.staged_cube
    DROP thread, DROP turn,  -- which depend on where the messages will stand
    ALTER word_count DROP NOT NULL, ALTER words DROP NOT NULL, ALTER embedding DROP NOT NULL;

-- `place` is the order in which they were said.
CREATE UNLOGGED TABLE memos.staged_message (
    tenant text COLLATE "C" NOT NULL,
    archive text COLLATE "C" NOT NULL,
    place bigint NOT NULL,
    namespace text[] COLLATE "C" NOT NULL,
    id text COLLATE "C" NOT NULL,
    session text COLLATE "C" NOT NULL,
    role text NOT NULL,
    name text,
    content text NOT NULL,
    metadata jsonb NOT NULL,
    extra jsonb NOT NULL,
    created_at timestamptz,
    utc_offset integer,
    created_by text,
    recorded_at timestamptz NOT NULL,
    unread boolean NOT NULL,
    retired_at timestamptz,
    forgotten_at timestamptz,
    PRIMARY KEY (tenant, archive, namespace, session, id)
);

-- A relation of '' is that of a source which is further away.
CREATE UNLOGGED TABLE memos.staged_edge (
    tenant text COLLATE "C" NOT NULL,
    archive text COLLATE "C" NOT NULL,
    child uuid NOT NULL,
    parent uuid NOT NULL,
    relation text NOT NULL,
    version integer NOT NULL,
    position integer NOT NULL,
    recorded_at timestamptz,
    PRIMARY KEY (tenant, archive, child, parent, relation)
);
CREATE INDEX staged_edge_parent ON memos.staged_edge (tenant, archive, parent);

CREATE UNLOGGED TABLE memos.staged_grant (
    archive text COLLATE "C" NOT NULL,
    was uuid NOT NULL,
    LIKE memos.permission,
    PRIMARY KEY (tenant, archive, was)
);

CREATE UNLOGGED TABLE memos.staged_event (
    archive text COLLATE "C" NOT NULL,
    LIKE memos.event,
    PRIMARY KEY (tenant, archive, at, id)
);

-- Take away what lies here of some loadings.
CREATE FUNCTION memos.unstage(of_tenant text, archives text[]) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM memos.staged_part WHERE tenant = of_tenant AND archive = ANY(archives);
    DELETE FROM memos.staged_id WHERE tenant = of_tenant AND archive = ANY(archives);
    DELETE FROM memos.staged_cube WHERE tenant = of_tenant AND archive = ANY(archives);
    DELETE FROM memos.staged_message WHERE tenant = of_tenant AND archive = ANY(archives);
    DELETE FROM memos.staged_edge WHERE tenant = of_tenant AND archive = ANY(archives);
    DELETE FROM memos.staged_grant WHERE tenant = of_tenant AND archive = ANY(archives);
    DELETE FROM memos.staged_event WHERE tenant = of_tenant AND archive = ANY(archives);
END
$$;

-- Count what lies here, with the owner's rights, for the plans of what is to be made of it.
CREATE FUNCTION memos.measure_staged() RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS $$
BEGIN
    ANALYZE memos.staged_id;
    ANALYZE memos.staged_cube (tenant, archive, id, version, superseded_at, activated_at, spoken);
    ANALYZE memos.staged_message (tenant, archive, namespace, session, id, forgotten_at);
    ANALYZE memos.staged_edge;
END
$$;
