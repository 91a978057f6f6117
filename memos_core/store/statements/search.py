"""The search statement: filter, rank by vector and by words, fuse, fetch, and log, in one trip."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, LiteralString, cast

from pgvector import HalfVector

from memos_core.embedder import Model, Vectors
from memos_core.hit import Hit
from memos_core.store.statement import Row, Statement
from memos_core.store.statements.columns import COLUMNS, SEARCHED, cube_from
from memos_core.store.statements.messages import message_from
from memos_core.store.statements.scope import INSIDE, LAZY_COMMIT, Scope


@dataclass(frozen=True, kw_only=True, slots=True)
class Query:
    """A question as the statement takes it.

    ``words`` is its lexical text, ``conditions`` a compiled metadata filter. ``valid_at`` None
    asks for what is true at ``as_of`` or now; ``any_time`` for what was true whenever.
    """

    words: str
    k: int
    offset: int
    conditions: str | None
    tags: tuple[str, ...]
    without: tuple[str, ...]
    kinds: tuple[str, ...] | None
    semantic_type: str | None
    as_of: datetime | None
    valid_at: datetime | None
    any_time: bool
    min_score: float | None
    context: int
    dense_weight: float
    lexical_weight: float
    log: bool


_NOW_ROWS: LiteralString = (
    "SELECT "
    + COLUMNS
    + ","
    + SEARCHED
    + " FROM memos.cube WHERE (expires_at IS NULL OR expires_at > now()) AND "
    + INSIDE
)
_THEN: LiteralString = (
    " recorded_at <= %(as_of)s AND (expires_at IS NULL OR expires_at > %(as_of)s) AND " + INSIDE
)
_THEN_ROWS: LiteralString = (
    "SELECT "
    + COLUMNS
    + ","
    + SEARCHED
    + " FROM memos.cube WHERE "
    + _THEN
    + " UNION ALL SELECT "
    + COLUMNS
    + ","
    + SEARCHED
    + " FROM memos.cube_version WHERE superseded_at > %(as_of)s AND "
    + _THEN
)

# Whether a cube passes the filters. Metadata conditions come as one value, so that no SQL is ever
# made of what a user wrote.
_PASSES: LiteralString = """
    state IN ('generated', 'activated', 'merged', 'frozen')
    AND (%(any_time)s OR (
        coalesce(valid_from <= coalesce(%(valid_at)s, %(as_of)s, now()), true)
        AND coalesce(valid_to > coalesce(%(valid_at)s, %(as_of)s, now()), true)
    ))
    AND tags @> %(tags)s::text[]
    AND NOT message_ids && %(without)s::text[]
    AND (%(kinds)s::text[] IS NULL OR kind = ANY(%(kinds)s::text[]))
    AND (%(semantic_type)s::text IS NULL OR semantic_type = %(semantic_type)s::text)
    AND (%(conditions)s::jsonb IS NULL OR NOT EXISTS (
        SELECT FROM jsonb_to_recordset(%(conditions)s::jsonb)
            AS condition (path text[], operator text, value jsonb)
        CROSS JOIN LATERAL (
            -- A recordset makes SQL's NULL of JSON's null.
            SELECT metadata #> path AS found, coalesce(value, 'null') AS wanted
        ) AS compared
        WHERE NOT coalesce(
            CASE operator
                WHEN '$eq' THEN found = wanted
                WHEN '$ne' THEN found IS DISTINCT FROM wanted
                WHEN '$in' THEN found IN (SELECT jsonb_array_elements(wanted))
                ELSE jsonb_typeof(found) = jsonb_typeof(wanted) AND
                    CASE operator
                        WHEN '$gt' THEN found > wanted
                        WHEN '$gte' THEN found >= wanted
                        WHEN '$lt' THEN found < wanted
                        WHEN '$lte' THEN found <= wanted
                    END
            END, false)
    ))
"""

# BM25 with k1 = 1.2 and b = 0.75 (Robertson & Zaragoza 2009, §3), without the factor k1 + 1, so
# that a word adds at most its idf, divided by the sum of the question's idf: a score in [0, 1) that
# compares between questions. Frequencies and lengths are those of the view at that moment, counted
# before any filter. All cubes that pass the filters are scored, so pages never overlap.
#
# Every step passes once over its rows, and none joins many rows with many: a planner that knows
# nothing of a table that was just filled would do that in the square of their number.
_RANKING: LiteralString = (
    """
    ), question AS (
        SELECT coalesce(array_agg(lexeme), '{}') AS lexemes
        FROM unnest(to_tsvector('english', %(words)s))
    ), live AS MATERIALIZED (
        SELECT
            id, word_count, words, passes,
            CASE WHEN passes THEN 1 - (embedding <=> %(embedding)b::halfvec) END AS cosine
        FROM memory, LATERAL (SELECT ("""
    + _PASSES
    + """) AS passes) AS filtered
        WHERE memos.embedded_by(%(model)s::jsonb)
    ), corpus AS (
        SELECT count(*)::float8 AS size, greatest(avg(word_count), 1)::float8 AS mean_length
        FROM live
    ), posting AS (
        SELECT id, passes, word_count, place, (words -> lexeme)::float8 AS times
        FROM live, question, unnest(lexemes) WITH ORDINALITY AS word (lexeme, place)
        WHERE words ? lexeme
    ), weight AS (
        SELECT array_agg(idf ORDER BY place) AS idf, sum(idf) AS ideal
        FROM question, corpus, generate_subscripts(lexemes, 1) AS place
        LEFT JOIN (SELECT place, count(*) AS cubes FROM posting GROUP BY place) AS frequency
            USING (place)
        CROSS JOIN LATERAL (
            SELECT ln(1 + (size - coalesce(cubes, 0) + 0.5) / (coalesce(cubes, 0) + 0.5)) AS idf
        ) AS word
    ), scored AS (
        SELECT
            id, cosine, bm25,
            %(dense_weight)s * cosine + %(lexical_weight)s * coalesce(bm25, 0) AS score,
            row_number() OVER (ORDER BY cosine DESC, id) AS dense_rank,
            row_number() OVER (ORDER BY bm25 DESC NULLS LAST, id) AS lexical_rank
        FROM (
            SELECT id, max(cosine) AS cosine, sum(part) AS bm25
            FROM (
                SELECT id, cosine, NULL::float8 AS part FROM live WHERE passes
                UNION ALL
                SELECT
                    id, NULL, idf[place] / ideal * times
                        / (times + 1.2 * (0.25 + 0.75 * word_count / mean_length))
                FROM posting, corpus, weight WHERE passes
            ) AS signal
            GROUP BY id
        ) AS fused
    ), best AS (
        SELECT * FROM scored
        WHERE %(min_score)s::float8 IS NULL OR score >= %(min_score)s::float8
        ORDER BY score DESC, id
        LIMIT %(k)s OFFSET %(offset)s
    ), logged AS (
        INSERT INTO memos.event (tenant, at, kind, namespace, caller, cube_ids, details)
        SELECT
            %(tenant)s, now(), 'searched', %(namespace)s::text[], %(caller)s::jsonb,
            ARRAY(SELECT id FROM best ORDER BY score DESC, id),
            jsonb_build_object('k', %(k)s::bigint, 'offset', %(offset)s::bigint)
        FROM """
    + LAZY_COMMIT
    + """
        WHERE %(log)s
    )
    """
)
_FETCHED: LiteralString = (
    "SELECT "
    + COLUMNS
    + """, best.score, best.cosine, best.bm25, best.dense_rank, best.lexical_rank, (
        SELECT jsonb_agg(to_jsonb(turn) ORDER BY turn.position)
        FROM (
            SELECT near.* FROM memos.message AS source
            CROSS JOIN LATERAL (
                (SELECT * FROM memos.message AS before
                 WHERE before.tenant = source.tenant AND before.namespace = source.namespace
                    AND before.session = source.session AND before.position <= source.position
                 ORDER BY before.position DESC LIMIT %(context)s + 1)
                UNION
                (SELECT * FROM memos.message AS after
                 WHERE after.tenant = source.tenant AND after.namespace = source.namespace
                    AND after.session = source.session AND after.position > source.position
                 ORDER BY after.position LIMIT %(context)s)
            ) AS near
            WHERE %(context)s > 0 AND source.tenant = %(tenant)s
                AND source.namespace = memory.namespace AND source.id = ANY(memory.message_ids)
                AND source.session = coalesce(memory.provenance ->> 'session', '')
        ) AS turn
        WHERE turn.forgotten_at IS NULL
            AND turn.recorded_at <= coalesce(%(as_of)s::timestamptz, 'infinity')
    ) AS context
    FROM best JOIN memory USING (id)
    ORDER BY best.score DESC, id
    """
)
_SEARCH: LiteralString = "WITH memory AS NOT MATERIALIZED (" + _NOW_ROWS + _RANKING + _FETCHED
_SEARCH_THEN: LiteralString = "WITH memory AS NOT MATERIALIZED (" + _THEN_ROWS + _RANKING + _FETCHED


def search(scope: Scope, query: Query, embedding: Vectors, *, model: str) -> Statement[list[Hit]]:
    """Find the best cubes for a question; ``embedding`` is its vector, shape (1, width)."""
    return Statement(
        sql=_SEARCH if query.as_of is None else _SEARCH_THEN,
        parameters=scope.parameters(
            words=query.words,
            k=query.k,
            offset=query.offset,
            conditions=query.conditions,
            tags=list(query.tags),
            without=list(query.without),
            kinds=None if query.kinds is None else list(query.kinds),
            semantic_type=query.semantic_type,
            as_of=query.as_of,
            valid_at=query.valid_at,
            any_time=query.any_time,
            min_score=query.min_score,
            context=query.context,
            dense_weight=query.dense_weight,
            lexical_weight=query.lexical_weight,
            log=query.log,
            embedding=HalfVector(embedding[0]),
            model=Model(name=model, width=embedding.shape[1]).as_json(),
        ),
        read=lambda rows: [_hit(row, query) for row in rows],
    )


def _hit(row: Row, query: Query) -> Hit:
    context = cast("list[dict[str, Any]] | None", row["context"])
    return Hit(
        cube=cube_from(row),
        score=row["score"],
        dense_rank=row["dense_rank"],
        lexical_rank=row["lexical_rank"] if row["bm25"] is not None else None,
        reasons={
            "dense": query.dense_weight * row["cosine"],
            "lexical": query.lexical_weight * (row["bm25"] or 0.0),
        },
        context=tuple(message_from(turn) for turn in context or ()),
    )
