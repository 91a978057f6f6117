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

SELECT memos.raise_wall();
