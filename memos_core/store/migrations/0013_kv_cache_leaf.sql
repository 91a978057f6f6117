-- A KV cache is found by its last key, which stands for all that it is of.
ALTER TABLE memos.kv_cache
    ADD leaf text COLLATE "C" GENERATED ALWAYS AS (keys[cardinality(keys)]) STORED;
CREATE INDEX kv_cache_leaf ON memos.kv_cache (tenant, model, leaf);
DROP INDEX memos.kv_cache_model;
