-- KV caches: cubes whose payload lies in files, made of cubes that say what it holds.

-- `keys` stand for the runs of tokens that it is of, `tokens` are their lengths, `members` the memories
-- in the order in which they were read; `fingerprint` is the model's.
CREATE TABLE memos.kv_cache (
    tenant text COLLATE "C" NOT NULL,
    cube uuid NOT NULL,
    fingerprint jsonb NOT NULL,
    keys text[] COLLATE "C" NOT NULL,
    tokens integer[] NOT NULL,
    members uuid[] NOT NULL,
    report jsonb NOT NULL,
    model text COLLATE "C" GENERATED ALWAYS AS (fingerprint ->> 'key') STORED,
    PRIMARY KEY (tenant, cube),
    CHECK (cardinality(keys) = cardinality(tokens) AND cardinality(members) > 0)
);
CREATE INDEX kv_cache_model ON memos.kv_cache (tenant, model);

-- With its cube goes what is known of a cache, and who holds its tensors is told.
CREATE FUNCTION memos.end_cache() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM memos.kv_cache WHERE tenant = OLD.tenant AND cube = OLD.id;
    PERFORM pg_notify('memos_caches', md5(OLD.tenant));
    RETURN NULL;
END
$$;
CREATE TRIGGER end_cache AFTER DELETE ON memos.cube
    FOR EACH ROW WHEN (OLD.kind = 'activation') EXECUTE FUNCTION memos.end_cache();

SELECT memos.raise_wall();
