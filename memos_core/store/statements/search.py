"""The search statement: filter, rank by vector and by words, fuse, fetch, and log, in one trip."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, LiteralString, cast

from pgvector import HalfVector

from memos_core.embedder import Model, Vectors
from memos_core.hit import Hit
from memos_core.message import Message
from memos_core.question import Terms
from memos_core.settings import Weights
from memos_core.store.statement import Row, Statement
from memos_core.store.statements import ranking
from memos_core.store.statements.columns import COLUMNS, SEARCHED, cube_from
from memos_core.store.statements.filters import Filters
from memos_core.store.statements.messages import message_from
from memos_core.store.statements.scope import INSIDE, LAZY_COMMIT, Scope


@dataclass(frozen=True, kw_only=True, slots=True)
class Query:
    """A question as the statement takes it.

    ``terms`` is None where words are not to count, ``vector`` (of shape (1, width)) where
    meaning is not. ``names`` are the speakers that the question mentions.
    """

    terms: Terms | None
    vector: Vectors | None
    model: str
    names: tuple[str, ...]
    filters: Filters
    weights: Weights
    k: int
    offset: int
    min_score: float | None
    context: int
    log: bool


_LIVE: LiteralString = " (expires_at IS NULL OR expires_at > now()) AND "
_KNOWN: LiteralString = (
    " recorded_at <= %(as_of)s AND (expires_at IS NULL OR expires_at > %(as_of)s) AND "
)
_SUPERSEDED: LiteralString = " superseded_at > %(as_of)s AND "
_FROM_NOW: LiteralString = "SELECT " + COLUMNS + "," + SEARCHED + " FROM memos.cube WHERE "
_FROM_THEN: LiteralString = "SELECT " + COLUMNS + "," + SEARCHED + " FROM memos.cube_version WHERE "
_NOW: LiteralString = _FROM_NOW + _LIVE + INSIDE
_THEN: LiteralString = (
    _FROM_NOW + _KNOWN + INSIDE + " UNION ALL " + _FROM_THEN + _SUPERSEDED + _KNOWN + INSIDE
)
# By the primary key; OFFSET keeps the planner from looking them up in another way.
_THE_BEST: LiteralString = " tenant = %(tenant)s AND id = best.id"
_FETCH_NOW: LiteralString = (
    "SELECT " + COLUMNS + " FROM memos.cube WHERE " + _THE_BEST + " OFFSET 0"
)
_FETCH_THEN: LiteralString = (
    "SELECT "
    + COLUMNS
    + " FROM memos.cube WHERE "
    + _KNOWN
    + _THE_BEST
    + " UNION ALL SELECT "
    + COLUMNS
    + " FROM memos.cube_version WHERE "
    + _SUPERSEDED
    + _KNOWN
    + _THE_BEST
    + " OFFSET 0"
)
_SAME_MODEL: LiteralString = "memos.embedded_by(%(model)s::jsonb)"  # asked once a statement
_DISTANCE: LiteralString = "embedding <=> %(embedding)b::halfvec"
_ENOUGH: LiteralString = "%(dense)s * (1 - (" + _DISTANCE + ")) >= %(min_score)s"
_LOGGED: LiteralString = (
    """, logged AS (
        INSERT INTO memos.event (tenant, at, kind, namespace, caller, cube_ids, details)
        SELECT
            %(tenant)s, now(), 'searched', %(namespace)s::text[], %(caller)s::jsonb,
            ARRAY(SELECT id FROM best ORDER BY place),
            jsonb_build_object('k', %(k)s::bigint, 'offset', %(offset)s::bigint)
        FROM """
    + LAZY_COMMIT
    + ")"
)
_CONTEXT: LiteralString = """(
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
            WHERE source.tenant = %(tenant)s
                AND source.namespace = cube.namespace AND source.id = ANY(cube.message_ids)
                AND source.session = coalesce(cube.provenance ->> 'session', '')
        ) AS turn
        WHERE turn.forgotten_at IS NULL
            AND turn.recorded_at <= coalesce(%(as_of)s::timestamptz, 'infinity')
    )"""


def search(scope: Scope, query: Query) -> Statement[list[Hit]]:
    """Find the best cubes for a question."""
    parameters = scope.parameters(
        k=query.k,
        offset=query.offset,
        min_score=query.min_score,
        context=query.context,
        names=list(query.names),
        **asdict(query.weights),
        **query.filters.parameters(),
    )
    if query.vector is not None:
        width = query.vector.shape[1]
        parameters["embedding"] = HalfVector(query.vector[0])
        parameters["model"] = Model(name=query.model, width=width).as_json()
    if query.terms is None:
        sql, read = _by_vector(query), _read_by_vector
    else:
        sql, read = _by_both(query, query.terms), _read_by_both
        parameters |= ranking.parameters(query.terms)
    return Statement(sql=sql, parameters=parameters, read=lambda rows: read(rows, query))


def _memory(query: Query) -> LiteralString:
    return _NOW if query.filters.as_of is None else _THEN


def _finish(query: Query, columns: LiteralString) -> LiteralString:
    """Log what was found and fetch it; ``columns`` are what ``best`` knows beside id and place."""
    return (
        (_LOGGED if query.log else "")
        + " SELECT cube.*, place, "
        + columns
        + (", " + _CONTEXT + " AS context" if query.context else "")
        + " FROM best CROSS JOIN LATERAL ("
        + (_FETCH_NOW if query.filters.as_of is None else _FETCH_THEN)
        + ") AS cube ORDER BY place"
    )


def _by_vector(query: Query) -> LiteralString:
    return (
        "WITH memory AS NOT MATERIALIZED ("
        + _memory(query)
        + """
    ), best AS MATERIALIZED (
        SELECT *, row_number() OVER (ORDER BY distance, id) AS place FROM (
            SELECT id, """
        + _DISTANCE
        + " AS distance FROM memory WHERE "
        + _SAME_MODEL
        + " AND "
        + query.filters.sql()
        + ("" if query.min_score is None else " AND " + _ENOUGH)
        + """
            ORDER BY distance, id LIMIT %(k)s OFFSET %(offset)s
        ) AS nearest
    )"""
        + _finish(query, "1 - distance AS cosine")
    )


def _by_both(query: Query, terms: Terms) -> LiteralString:
    return (
        "WITH memory AS NOT MATERIALIZED ("
        + _memory(query)
        + "), live AS MATERIALIZED ("
        + _live(query, terms)
        + " FROM memory CROSS JOIN LATERAL (SELECT ("
        + query.filters.sql()
        + ") AS passes) AS filtered"
        + ("" if query.vector is None else " WHERE " + _SAME_MODEL)
        + "),"
        + ranking.COUNTED
        + ","
        + ranking.signals(terms)
        + _SCORED
        + _finish(query, _SIGNALS)
    )


def _live(query: Query, terms: Terms) -> LiteralString:
    """Return what ranking reads of a row, from a relation that has ``passes`` beside a cube."""
    return (
        "SELECT id, thread, turn, word_count, words, passes,"
        + ranking.mask(terms)
        + " AS mask,"
        + ("0::float8" if query.vector is None else "CASE WHEN passes THEN " + _COSINE + " END")
        + " AS cosine,"
        + (_NAMED if query.names else "false")
        + ' AS named, thread IS NOT NULL AND provenance @> \'{"role": "assistant"}\' AS assistant'
    )


_NAMED: LiteralString = (
    "thread IS NOT NULL AND coalesce(provenance ->> 'speaker' = ANY(%(names)s::text[]), false)"
)
_COSINE: LiteralString = "1 - (" + _DISTANCE + ")"
_SIGNALS: LiteralString = (
    "score, cosine, near_cosine, bm25, near_bm25, named, assistant, dense_rank, lexical_rank"
)
# All cubes that pass the filters are scored, so pages never overlap. Ranks are found in sorted
# arrays of numbers: to number whole rows would double the cost of the search.
_SCORED: LiteralString = """
    , ranks AS MATERIALIZED (
        SELECT
            (SELECT array_agg(cosine ORDER BY cosine) FROM signal) AS cosines,
            (SELECT array_agg(bm25 ORDER BY bm25) FROM signal WHERE bm25 > 0) AS bm25s
    ), best AS MATERIALIZED (
        SELECT
            page.*,
            row_number() OVER (ORDER BY score DESC, id) AS place,
            1 + cardinality(cosines) - width_bucket(cosine, cosines) AS dense_rank,
            CASE WHEN bm25 > 0 THEN 1 + cardinality(bm25s) - width_bucket(bm25, bm25s) END
                AS lexical_rank
        FROM (
            SELECT * FROM (
                SELECT
                    *,
                    %(dense)s * cosine + %(dense_context)s * near_cosine
                        + %(lexical)s * bm25 + %(lexical_context)s * near_bm25
                        + CASE WHEN named THEN %(speaker)s ELSE 0 END
                        + CASE WHEN assistant THEN %(assistant)s ELSE 0 END AS score
                FROM signal
            ) AS scored
            WHERE %(min_score)s::float8 IS NULL OR score >= %(min_score)s::float8
            ORDER BY score DESC, id
            LIMIT %(k)s OFFSET %(offset)s
        ) AS page, ranks
    )"""


def _read_by_vector(rows: Sequence[Row], query: Query) -> list[Hit]:
    return [
        Hit(
            cube=cube_from(row),
            score=query.weights.dense * row["cosine"],
            dense_rank=query.offset + row["place"],
            lexical_rank=None,
            reasons={"dense": query.weights.dense * row["cosine"]},
            context=_context(row),
        )
        for row in rows
    ]


def _read_by_both(rows: Sequence[Row], query: Query) -> list[Hit]:
    return [_hit(row, query) for row in rows]


def _hit(row: Row, query: Query) -> Hit:
    weights = query.weights
    shares = {
        "lexical": weights.lexical * row["bm25"],
        "lexical_context": weights.lexical_context * row["near_bm25"],
        "speaker": weights.speaker * row["named"],
        "assistant": weights.assistant * row["assistant"],
    }
    if query.vector is not None:
        shares["dense"] = weights.dense * row["cosine"]
        shares["dense_context"] = weights.dense_context * row["near_cosine"]
    return Hit(
        cube=cube_from(row),
        score=row["score"],
        dense_rank=None if query.vector is None else row["dense_rank"],
        lexical_rank=row["lexical_rank"],
        reasons={name: share for name, share in shares.items() if share},
        context=_context(row),
    )


def _context(row: Row) -> tuple[Message, ...]:
    turns = cast("list[dict[str, Any]] | None", row.get("context"))
    return tuple(message_from(turn) for turn in turns or ())
