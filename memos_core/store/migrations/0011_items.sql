-- Items: cubes that are values under keys.

-- Those put last, which are looked at first.
CREATE INDEX cube_item ON memos.cube (tenant, recorded_at DESC, id) WHERE semantic_type = 'item';

-- The texts by which an item is found, where it is more than one: by its paths. They go with its cube,
-- count while it says what it said (`version` is its `content_version`), and have vectors of
-- `model`.
CREATE TABLE memos.passage (
    tenant text COLLATE "C" NOT NULL,
    cube uuid NOT NULL,
    version integer NOT NULL,
    place integer NOT NULL,
    text text NOT NULL,
    model jsonb NOT NULL,
    embedding halfvec NOT NULL,
    PRIMARY KEY (tenant, cube, version, place),
    FOREIGN KEY (tenant, cube) REFERENCES memos.cube (tenant, id) ON DELETE CASCADE
);
ALTER TABLE memos.passage ALTER embedding SET STORAGE MAIN;

-- As before, but the current versions go first: whoever puts an item in the place of one that is being
-- deleted waits for that, and leaves no version behind that belongs to nothing.
CREATE OR REPLACE FUNCTION memos.erase(of_tenant text, ids uuid[]) RETURNS bigint
LANGUAGE plpgsql AS $$
DECLARE
    superseded bigint;
    current bigint;
BEGIN
    LOCK TABLE memos.cube_version IN ROW EXCLUSIVE MODE;  -- before the other, as everywhere
    PERFORM memos.unmerge(of_tenant, ids, clock_timestamp());
    DELETE FROM memos.cube WHERE tenant = of_tenant AND id = ANY(ids);
    GET DIAGNOSTICS current = ROW_COUNT;
    DELETE FROM memos.cube_version WHERE tenant = of_tenant AND id = ANY(ids);
    GET DIAGNOSTICS superseded = ROW_COUNT;
    DELETE FROM memos.reembedding WHERE tenant = of_tenant AND id = ANY(ids);
    DELETE FROM memos.activation WHERE tenant = of_tenant AND cube = ANY(ids);
    DELETE FROM memos.lineage WHERE tenant = of_tenant AND (child = ANY(ids) OR parent = ANY(ids));
    DELETE FROM memos.source WHERE tenant = of_tenant AND (cube = ANY(ids) OR source = ANY(ids));
    DELETE FROM memos.permission WHERE tenant = of_tenant AND cube = ANY(ids);
    PERFORM memos.unindex(of_tenant, ids);
    RETURN superseded + current;
END
$$;

SELECT memos.raise_wall();
