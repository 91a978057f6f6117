-- What search reads of a memory: its words as one vector of hashed terms, and its place in the
-- conversation it was said in.

-- A conversation as one number: cheaper to compare than labels and a session.
CREATE FUNCTION memos.thread(namespace text[], session text) RETURNS bigint
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT hashtextextended(array_to_string(namespace, E'\x1f') || E'\x1f' || session, 0)
$$;

-- What `memos_core.words` makes of lexemes and how often each occurs.
CREATE FUNCTION pg_temp.vector_of(words jsonb) RETURNS sparsevec
LANGUAGE sql AS $$
    SELECT ('{' || coalesce(string_agg(place || ':' || value, ','), '') || '}/1000000000')::sparsevec
    FROM (
        SELECT place, min(value) AS value
        FROM (SELECT key, value::float8 AS times FROM jsonb_each(words) LIMIT 8000) AS word
        CROSS JOIN LATERAL (
            SELECT ('x' || left(md5(key), 8))::bit(32)::bigint % 500000000 + 1 AS term
        ) AS hashed
        CROSS JOIN LATERAL (
            SELECT term, 1::float4
            UNION ALL
            SELECT term + 500000000, (2.2 * times / (times + 1.2) - 1)::float4 WHERE times > 1
        ) AS entry (place, value)
        GROUP BY place
    ) AS entry
$$;

ALTER TABLE memos.cube RENAME words TO lexemes;
ALTER TABLE memos.cube_version RENAME words TO lexemes;
ALTER TABLE memos.cube ADD words sparsevec, ADD thread bigint, ADD turn bigint;
ALTER TABLE memos.cube_version ADD words sparsevec, ADD thread bigint, ADD turn bigint;

UPDATE memos.cube SET words = pg_temp.vector_of(lexemes);
UPDATE memos.cube_version SET words = pg_temp.vector_of(lexemes);
UPDATE memos.cube SET
    thread = memos.thread(message.namespace, message.session), turn = message.position
FROM memos.message
WHERE message.tenant = cube.tenant AND message.namespace = cube.namespace
    AND message.session = coalesce(provenance ->> 'session', '')
    AND message.id = message_ids[1];
UPDATE memos.cube_version AS cube SET
    thread = memos.thread(message.namespace, message.session), turn = message.position
FROM memos.message
WHERE message.tenant = cube.tenant AND message.namespace = cube.namespace
    AND message.session = coalesce(provenance ->> 'session', '')
    AND message.id = message_ids[1];

ALTER TABLE memos.cube DROP lexemes, ALTER words SET NOT NULL;
ALTER TABLE memos.cube_version DROP lexemes, ALTER words SET NOT NULL;
-- In line, as the embedding: long texts leave the row first.
ALTER TABLE memos.cube ALTER words SET STORAGE MAIN;
ALTER TABLE memos.cube_version ALTER words SET STORAGE MAIN;

-- Who speaks in a namespace, without reading all that was said in it.
CREATE INDEX message_name ON memos.message (tenant, namespace, name) WHERE name IS NOT NULL;
