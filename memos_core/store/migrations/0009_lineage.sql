-- What changes a cube holds all that it reaches first; and nothing is less sensitive than its sources.

-- Hold against others, until the transaction ends, all that ending or changing cubes reaches: what was
-- made of them, and what was merged into either; and cubes that are used, with all that they were made
-- of. Everybody holds what he needs in the order of ids, and nobody waits for one who waits for him.
-- Twice, for what others made while he waited.
CREATE FUNCTION memos.hold(of_tenant text, changed uuid[], used uuid[] DEFAULT '{}') RETURNS boolean
LANGUAGE plpgsql AS $$
DECLARE
    reached uuid[];
BEGIN
    LOCK TABLE memos.cube_version IN ROW EXCLUSIVE MODE;  -- before the other, as everywhere
    FOR round IN 1..2 LOOP
        reached := changed || ARRAY(
            SELECT cube FROM memos.source WHERE tenant = of_tenant AND source = ANY(changed)
        );
        PERFORM FROM memos.cube
        WHERE tenant = of_tenant AND id = ANY(reached || used || ARRAY(
            SELECT parent FROM memos.lineage
            WHERE tenant = of_tenant AND child = ANY(reached) AND relation = 'merged'
            UNION
            SELECT source FROM memos.source WHERE tenant = of_tenant AND cube = ANY(used)
        ))
        ORDER BY id FOR UPDATE;
    END LOOP;
    RETURN true;
END
$$;

-- As before, but found by their ids; and what thaws as merged waits, and is seen.
CREATE OR REPLACE FUNCTION memos.unmerge(of_tenant text, children uuid[], moment timestamptz)
RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    parents uuid[] := ARRAY(
        SELECT DISTINCT parent FROM memos.lineage
        WHERE tenant = of_tenant AND child = ANY(children) AND relation = 'merged'
    );
    freed uuid[];
    one record;
BEGIN
    IF cardinality(parents) = 0 THEN
        RETURN;
    END IF;
    LOCK TABLE memos.cube_version IN ROW EXCLUSIVE MODE;
    -- First, so that of two fusions that end at once the second sees that the first has.
    PERFORM FROM memos.cube
    WHERE tenant = of_tenant AND id = ANY(parents) AND state IN ('merged', 'frozen')
    ORDER BY id FOR UPDATE;
    freed := ARRAY(
        SELECT id FROM memos.cube
        WHERE tenant = of_tenant AND id = ANY(parents) AND state = 'merged' AND id <> ALL(children)
            AND NOT memos.spoken_for(of_tenant, id, children)
        ORDER BY id
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

-- Whether a cube is merged into one that is there and is not among some.
CREATE FUNCTION memos.spoken_for(of_tenant text, of_cube uuid, gone uuid[]) RETURNS boolean
LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN EXISTS (
        SELECT FROM memos.lineage JOIN memos.cube AS fusion
            ON fusion.tenant = of_tenant AND fusion.id = child
        WHERE lineage.tenant = of_tenant AND parent = of_cube AND relation = 'merged'
            AND child <> ALL(gone)
    );
END
$$;

-- End cubes because of others that they were made of.
CREATE FUNCTION memos.fall(
    of_tenant text, fallen uuid[], changed uuid[], moment timestamptz, asker jsonb
) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO memos.event (tenant, at, kind, namespace, caller, cube_ids, details)
    SELECT
        of_tenant, moment, 'invalidated', namespace, asker, array_agg(id ORDER BY id),
        jsonb_build_object('because_of', to_jsonb(changed))
    FROM memos.cube WHERE tenant = of_tenant AND id = ANY(fallen)
    GROUP BY namespace;
    PERFORM memos.unmerge(of_tenant, fallen, moment);
    PERFORM memos.expire(of_tenant, fallen, moment);
END
$$;

-- As before; what is frozen falls when it thaws.
CREATE OR REPLACE FUNCTION memos.invalidate(
    of_tenant text, changed uuid[], moment timestamptz, asker jsonb
) RETURNS uuid[]
LANGUAGE plpgsql AS $$
DECLARE
    fallen uuid[] := ARRAY(
        SELECT id FROM memos.cube
        WHERE tenant = of_tenant AND state <> 'frozen' AND id = ANY(ARRAY(
            SELECT cube FROM memos.source WHERE tenant = of_tenant AND source = ANY(changed)
        ))
        ORDER BY id FOR UPDATE
    );
BEGIN
    IF cardinality(fallen) > 0 THEN
        PERFORM memos.fall(of_tenant, fallen, changed, moment, asker);
    END IF;
    RETURN fallen;
END
$$;

-- The sensitivity of a cube: what it is to be, and with it that of all that it was made of.
CREATE FUNCTION memos.labels(of_tenant text, of_cube uuid, wanted text[]) RETURNS text[]
LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN wanted || ARRAY(
        SELECT DISTINCT label FROM memos.cube CROSS JOIN unnest(sensitivity) AS label
        WHERE tenant = of_tenant AND label <> ALL(wanted) AND id = ANY(ARRAY(
            SELECT source FROM memos.source WHERE tenant = of_tenant AND cube = of_cube
        ))
        ORDER BY label
    );
END
$$;

-- Make what was made of a cube at least as sensitive as this is, what is frozen of it too: a version
-- and an event for each that was not. Those that were not.
CREATE FUNCTION memos.mark(
    of_tenant text, changed uuid, labels text[], moment timestamptz, asker jsonb
) RETURNS uuid[]
LANGUAGE plpgsql AS $$
DECLARE
    marked uuid[] := ARRAY(
        SELECT id FROM memos.cube
        WHERE tenant = of_tenant AND NOT sensitivity @> labels AND id = ANY(ARRAY(
            SELECT cube FROM memos.source WHERE tenant = of_tenant AND source = changed
        ))
        ORDER BY id FOR UPDATE
    );
    one record;
BEGIN
    IF cardinality(marked) = 0 THEN
        RETURN marked;
    END IF;
    INSERT INTO memos.cube_version
    SELECT greatest(moment, recorded_at + interval '1 microsecond'), cube.* FROM memos.cube
    WHERE tenant = of_tenant AND id = ANY(marked);
    UPDATE memos.cube SET
        version = version + 1,
        recorded_at = greatest(moment, recorded_at + interval '1 microsecond'),
        sensitivity = sensitivity || ARRAY(
            SELECT label FROM unnest(labels) AS label WHERE label <> ALL(sensitivity)
        )
    WHERE tenant = of_tenant AND id = ANY(marked);
    FOR one IN SELECT * FROM memos.cube WHERE tenant = of_tenant AND id = ANY(marked) LOOP
        INSERT INTO memos.event (tenant, at, kind, namespace, caller, cube_ids, details) VALUES (
            of_tenant, one.recorded_at, 'marked', one.namespace, asker, ARRAY[one.id],
            jsonb_build_object('version', one.version, 'because_of', ARRAY[changed])
        );
        PERFORM memos.unindex(of_tenant, ARRAY[one.id], one.namespace);
    END LOOP;
    RETURN marked;
END
$$;
