-- Channels: what a tenant publishes, who takes it, and what each of them got.

-- Every tenant may look for what is published; so these two are read across tenants, and nothing else.
-- `to_tenants` NULL is every tenant of the database.
CREATE TABLE memos.publication (
    tenant text COLLATE "C" NOT NULL,
    id uuid NOT NULL,
    namespace text[] COLLATE "C" NOT NULL,
    channel text COLLATE "C" NOT NULL,
    matching jsonb NOT NULL,
    licence text,
    watermark text,
    mask jsonb NOT NULL,
    region text,
    to_tenants text[],
    condition jsonb NOT NULL,
    caller jsonb,
    published_at timestamptz NOT NULL,
    expires_at timestamptz,
    withdrawn_at timestamptz,
    trail text COLLATE "C" GENERATED ALWAYS AS (memos.trail(namespace)) STORED,
    PRIMARY KEY (tenant, id),
    CHECK (tenant = namespace[1])
);
CREATE INDEX publication_channel ON memos.publication (channel);
ALTER TABLE memos.publication ENABLE ROW LEVEL SECURITY;
CREATE POLICY read ON memos.publication FOR SELECT USING (true);
SELECT memos.one_tenant('memos.publication', 'written_by_one_tenant', 'USING');

CREATE TABLE memos.subscription (
    tenant text COLLATE "C" NOT NULL,
    id uuid NOT NULL,
    namespace text[] COLLATE "C" NOT NULL,
    channel text COLLATE "C" NOT NULL,
    publisher text COLLATE "C",
    matching jsonb NOT NULL,
    caller jsonb,
    subscribed_at timestamptz NOT NULL,
    trail text COLLATE "C" GENERATED ALWAYS AS (memos.trail(namespace)) STORED,
    PRIMARY KEY (tenant, id),
    CHECK (tenant = namespace[1])
);

-- What was delivered, of the publisher's: so that nobody but the two of them knows.
CREATE TABLE memos.delivery (
    tenant text COLLATE "C" NOT NULL,
    publication uuid NOT NULL,
    source uuid NOT NULL,
    source_version integer NOT NULL,
    subscriber text COLLATE "C" NOT NULL,
    subscription uuid NOT NULL,
    cube uuid NOT NULL,
    delivered_at timestamptz NOT NULL,
    PRIMARY KEY (tenant, subscription, publication, source)
);
CREATE INDEX delivery_source ON memos.delivery (tenant, source);

-- Erase what was delivered of cubes, and what was made of that; how many cubes. What the publisher
-- forgets is forgotten everywhere.
CREATE FUNCTION memos.recall(of_tenant text, ids uuid[]) RETURNS bigint
LANGUAGE plpgsql AS $$
DECLARE
    one record;
    gone uuid[];
    recalled bigint := 0;
    walled text := coalesce(current_setting('memos.tenant', true), '');
BEGIN
    FOR one IN
        DELETE FROM memos.delivery WHERE tenant = of_tenant AND source = ANY(ids)
        RETURNING subscriber, cube, source, publication
    LOOP
        PERFORM set_config('memos.tenant', one.subscriber, true);
        gone := ARRAY[one.cube] || ARRAY(
            SELECT cube FROM memos.source WHERE tenant = one.subscriber AND source = one.cube
        );
        INSERT INTO memos.event (tenant, at, kind, namespace, caller, cube_ids, details)
        SELECT
            tenant, clock_timestamp(), 'forgot', namespace, NULL, gone,
            jsonb_build_object('because', 'publisher', 'publication', one.publication)
        FROM memos.cube WHERE tenant = one.subscriber AND id = one.cube;
        PERFORM memos.erase(one.subscriber, gone);
        recalled := recalled + 1 + memos.recall(one.subscriber, gone);
        PERFORM set_config('memos.tenant', walled, true);
    END LOOP;
    RETURN recalled;
END
$$;

-- Tell who listens that a tenant that publishes changed something.
CREATE FUNCTION memos.announce(of_tenant text) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT FROM memos.publication WHERE tenant = of_tenant) THEN
        PERFORM pg_notify('memos_channels', md5(of_tenant));
    END IF;
END
$$;

SELECT memos.raise_wall();
