-- Rights over what was, and over what may be granted on.

CREATE TYPE memos.had AS (id uuid, owner text, namespace text[] COLLATE "C", tags text[]);

-- What decides who may read a cube's past: the cube as it stands or last was, and with a content's
-- version, the versions that say that, too. For conditions that must see what the caller may not.
CREATE FUNCTION memos.had_by(of_tenant text, of_cube uuid, of_content integer) RETURNS SETOF memos.had
LANGUAGE plpgsql STABLE AS $$
DECLARE
    asked text := coalesce(current_setting('memos.asked', true), '');
BEGIN
    -- Here and not as the function's setting, for which one would have to be a superuser.
    PERFORM set_config('memos.asked', '', true);
    RETURN QUERY
    SELECT every.id, every.owner, every.namespace, every.tags FROM (
        SELECT cube.id, cube.owner, cube.namespace, cube.tags, version, content_version
        FROM memos.cube WHERE tenant = of_tenant AND cube.id = of_cube
        UNION ALL
        SELECT old.id, old.owner, old.namespace, old.tags, version, content_version
        FROM memos.cube_version AS old WHERE tenant = of_tenant AND old.id = of_cube
        ORDER BY version DESC
        LIMIT CASE WHEN of_content IS NULL THEN 1 END
    ) AS every
    WHERE of_content IS NULL OR content_version = of_content OR version = (
        SELECT max(version) FROM (
            SELECT version FROM memos.cube WHERE tenant = of_tenant AND cube.id = of_cube
            UNION ALL
            SELECT version FROM memos.cube_version AS old
            WHERE tenant = of_tenant AND old.id = of_cube
        ) AS versions
    );
    PERFORM set_config('memos.asked', asked, true);
END
$$;

-- What may be granted on: what was granted to the caller himself, for good and without a condition.
CREATE FUNCTION memos.lasting(of_tenant text, asker jsonb, wanted text)
RETURNS SETOF memos.permission
LANGUAGE sql STABLE PARALLEL SAFE ROWS 10 AS $$
    SELECT * FROM memos.permission
    WHERE tenant = of_tenant AND to_user = asker ->> 'user' AND wanted = ANY(rights)
        AND expires_at IS NULL AND condition = '{}'
$$;
CREATE FUNCTION memos.lasting_cubes(of_tenant text, asker jsonb, wanted text) RETURNS SETOF uuid
LANGUAGE sql STABLE PARALLEL SAFE ROWS 10 AS $$
    SELECT cube FROM memos.lasting(of_tenant, asker, wanted) WHERE cube IS NOT NULL
$$;
CREATE FUNCTION memos.lasting_places(of_tenant text, asker jsonb, wanted text)
RETURNS memos.place[]
LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT array_agg(ROW(namespace, tag, holder)::memos.place)
    FROM memos.lasting(of_tenant, asker, wanted) WHERE cube IS NULL
$$;

-- Take back grants, and what was granted on by those who lose the right to share; all that is gone.
CREATE FUNCTION memos.revoke(of_tenant text, ids uuid[]) RETURNS SETOF memos.permission
LANGUAGE plpgsql AS $$
DECLARE
    one memos.permission;
    further uuid[];
BEGIN
    WHILE cardinality(ids) > 0 LOOP
        further := '{}';
        FOR one IN DELETE FROM memos.permission WHERE tenant = of_tenant AND id = ANY(ids) RETURNING *
        LOOP
            RETURN NEXT one;
            CONTINUE WHEN one.to_user IS NULL OR 'share' <> ALL(one.rights);
            further := further || ARRAY(
                SELECT granted.id FROM memos.permission AS granted
                WHERE granted.tenant = of_tenant AND granted_by = one.to_user AND holder IS NULL
                    AND namespace[:cardinality(one.namespace)] = one.namespace
                    AND (one.cube IS NULL OR cube = one.cube)
                    AND (one.tag IS NULL OR cube IS NOT NULL OR tag = one.tag)
                    AND NOT EXISTS (
                        SELECT FROM memos.cube AS own
                        WHERE own.tenant = of_tenant AND own.id = granted.cube
                            AND own.owner = granted.granted_by
                    )
            );
        END LOOP;
        ids := further;
    END LOOP;
END
$$;
