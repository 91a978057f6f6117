-- The texts by which a cube is found, where it is more than one: an item's, by its paths. They go with
-- their cube, count while it says what it said (`version` is its `content_version`), and hold no vector
-- of another model than `model`.
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
