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
from memos_core.store.statements import candidates, ranking
from memos_core.store.statements.columns import COLUMNS, SEARCHED, WOKEN, cube_from
from memos_core.store.statements.context import CONTEXT
from memos_core.store.statements.filters import Filters
from memos_core.store.statements.messages import message_from
from memos_core.store.statements.permission import (
    MAY_READ_INSIDE,
    MAY_READ_VERSION,
    STANDS,
    STOOD,
)
from memos_core.store.statements.scope import INSIDE, LAZY_COMMIT, Scope


@dataclass(frozen=True, kw_only=True, slots=True)
class Query:
    """A question as the statement takes it.

    ``terms`` is None where words are not to count, ``vector`` (of shape (1, width)) where
    meaning is not. ``names`` are the speakers that the question mentions. With ``index``, the
    view's search index, not all memories are looked at. Where ``governed``, somebody asks by name,
    and only what he may read is looked at.
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
    index: int | None = None
    governed: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """What a search found; without ``enough`` its index knew too little, and nothing is logged."""

    hits: list[Hit]
    enough: bool = True


_AND: LiteralString = " AND "
_LIVE: LiteralString = " (expires_at IS NULL OR expires_at > now()) AND "
_KNOWN: LiteralString = (
    " recorded_at <= %(as_of)s AND (expires_at IS NULL OR expires_at > %(as_of)s) AND "
)
_SUPERSEDED: LiteralString = " superseded_at > %(as_of)s AND "
_FROM_NOW: LiteralString = "SELECT " + COLUMNS + "," + SEARCHED + " FROM memos.cube WHERE "
_FROM_THEN: LiteralString = "SELECT " + COLUMNS + "," + SEARCHED + " FROM memos.cube_version WHERE "
# By the primary key; OFFSET keeps the planner from looking them up in another way.
_THE_BEST: LiteralString = " tenant = %(tenant)s AND id = best.id"
_FETCHED: LiteralString = "SELECT " + COLUMNS + "," + WOKEN
_FETCH_NOW: LiteralString = _FETCHED + " FROM memos.cube WHERE " + _THE_BEST + " OFFSET 0"
_FETCH_THEN: LiteralString = (
    _FETCHED
    + " FROM memos.cube WHERE "
    + _KNOWN
    + _THE_BEST
    + " UNION ALL "
    + _FETCHED
    + " FROM memos.cube_version WHERE "
    + _SUPERSEDED
    + _KNOWN
    + _THE_BEST
    + " OFFSET 0"
)
_SAME_MODEL: LiteralString = "memos.embedded_by(%(model)s::jsonb)"  # asked once a statement
_DISTANCE: LiteralString = "embedding <=> %(embedding)b::halfvec"
_LEAST: LiteralString = " WHERE %(dense)s * (1 - distance) >= %(min_score)s"
_LOGGED: LiteralString = (
    """, logged AS (
        INSERT INTO memos.event (tenant, at, kind, namespace, caller, cube_ids, details)
        SELECT
            %(tenant)s, now(), 'searched', %(namespace)s::text[], %(caller)s::jsonb,
            ARRAY(SELECT id FROM best ORDER BY place),
            jsonb_build_object('k', %(k)s::bigint, 'offset', %(offset)s::bigint)
        FROM """
    + LAZY_COMMIT
)
# In the order of ids, so that two searches that find the same do not wait for each other in a ring.
_ACTIVATED: LiteralString = """, activated AS (
        INSERT INTO memos.activation (tenant, cube, at)
        SELECT tenant, id, now() FROM answer
        WHERE state = 'generated' AND woken IS NULL"""
_ONCE: LiteralString = " ORDER BY id ON CONFLICT DO NOTHING)"


def search(scope: Scope, query: Query) -> Statement[Found]:
    """Find the best cubes for a question."""
    parameters = scope.reading(
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
    if query.terms is not None:
        parameters |= ranking.parameters(query.terms)
    if query.index is not None:
        hybrid = query.terms is not None and query.vector is not None
        wanted = query.k + query.offset
        parameters |= candidates.parameters(
            query.index, wanted=wanted, hybrid=hybrid, filtered=query.filters.selective
        )
    return Statement(
        sql=_by_vector(query) if query.terms is None else _by_both(query, query.terms),
        parameters=parameters,
        read=lambda rows: _found(rows, query),
    )


def _finish(query: Query, columns: LiteralString) -> LiteralString:
    """Fetch what was found and log it; ``columns`` are what ``best`` knows beside id and place."""
    answer = (
        ", answer AS MATERIALIZED (SELECT cube.*, place, "
        + columns
        + (", " + CONTEXT + " AS context" if query.context else "")
        + " FROM best CROSS JOIN LATERAL ("
        + (_FETCH_NOW if query.filters.as_of is None else _FETCH_THEN)
        + ") AS cube)"
    )
    wakes = query.log and query.filters.as_of is None
    if query.index is None:
        return (
            answer
            + (_LOGGED + ")" if query.log else "")
            + (_ACTIVATED + _ONCE if wakes else "")
            + " SELECT * FROM answer ORDER BY place"
        )
    known: LiteralString = "(SELECT enough FROM enough)"
    return (
        candidates.enough(by_words_alone=query.vector is None)
        + answer
        + (_LOGGED + " WHERE " + known + ")" if query.log else "")
        + (_ACTIVATED + " AND " + known + _ONCE if wakes else "")
        + " SELECT answer.*, enough FROM enough LEFT JOIN answer ON true ORDER BY place"
    )


def _by_vector(query: Query) -> LiteralString:
    columns = "id, " + _DISTANCE + " AS distance"
    passing = _SAME_MODEL + " AND " + _filtered(query)
    if query.index is None:
        sources = " memory AS NOT MATERIALIZED (" + _memory(query) + ")"
        memories = "SELECT " + columns + " FROM memory WHERE " + passing
    else:
        passing = _live(query) + passing
        sources = candidates.nearest(columns, passing, _DISTANCE) + "," + candidates.LATE
        late = candidates.fetched("SELECT id FROM late", columns, passing)
        memories = "SELECT * FROM nearest UNION ALL " + late
    return (
        "WITH "
        + sources
        + """, best AS MATERIALIZED (
        SELECT *, row_number() OVER (ORDER BY distance, id) AS place FROM (
            SELECT * FROM ("""
        + memories
        + ") AS memories"
        + ("" if query.min_score is None else _LEAST)
        + """
            ORDER BY distance, id LIMIT %(k)s OFFSET %(offset)s
        ) AS closest
    )"""
        + _finish(query, "1 - distance AS cosine")
    )


def _by_both(query: Query, terms: Terms) -> LiteralString:
    return (
        "WITH "
        + (_all(query, terms) if query.index is None else _likely(query, terms))
        + ","
        + ranking.signals(terms, rows="live", name="signal")
        + _SCORED
        + _finish(query, _SIGNALS)
    )


def _all(query: Query, terms: Terms) -> LiteralString:
    """Return the CTEs to ``live`` and the weights of the terms, from every memory of the view."""
    return (
        " memory AS NOT MATERIALIZED ("
        + _memory(query)
        + "), live AS MATERIALIZED (SELECT "
        + _ranked(query, terms, "passes")
        + " FROM memory CROSS JOIN LATERAL (SELECT ("
        + _filtered(query)
        + ") AS passes) AS filtered"
        + ("" if query.vector is None else " WHERE " + _SAME_MODEL)
        + "),"
        + ranking.COUNTED
        + ","
        + ranking.WEIGHED
    )


def _likely(query: Query, terms: Terms) -> LiteralString:
    """Return the same from the view's search index."""
    columns = _ranked(query, terms, "(" + _filtered(query) + ")")
    live = _live(query) + ("true" if query.vector is None else _SAME_MODEL)
    passing = live + " AND " + _filtered(query)
    nearest: LiteralString = ""
    found = "SELECT * FROM worded UNION ALL " + candidates.fetched(
        "SELECT id FROM late", columns, live
    )
    if query.vector is not None:
        nearest = candidates.nearest(columns, passing, _DISTANCE) + ","
        found += " UNION ALL SELECT * FROM nearest"
    return (
        nearest
        + candidates.worded(columns, passing)
        + ","
        + candidates.LATE
        + ", own AS MATERIALIZED (SELECT DISTINCT ON (id) * FROM ("
        + found
        + ") AS found ORDER BY id),"
        + candidates.COUNTED
        + ","
        + ranking.WEIGHED
        + ","
        + candidates.around(terms, columns, live)
    )


def _memory(query: Query) -> LiteralString:
    if query.filters.as_of is None:
        return _FROM_NOW + _live(query) + INSIDE
    now: LiteralString = _AND + MAY_READ_INSIDE + _AND + STOOD if query.governed else ""
    then: LiteralString = _AND + MAY_READ_VERSION + _AND + STOOD if query.governed else ""
    return (
        _FROM_NOW
        + _KNOWN
        + INSIDE
        + now
        + " UNION ALL "
        + _FROM_THEN
        + _SUPERSEDED
        + _KNOWN
        + INSIDE
        + then
    )


def _live(query: Query) -> LiteralString:
    """Return the condition of rows that are looked at: what may not be read has no say in ranks.

    By vector alone there are none but those that answer, of which the filters ask whether they
    stand.
    """
    if not query.governed:
        return _LIVE
    return _LIVE + MAY_READ_INSIDE + _AND + ("" if query.terms is None else STANDS + _AND)


def _filtered(query: Query) -> LiteralString:
    return query.filters.sql(governed=query.governed)


def _ranked(query: Query, terms: Terms, passes: LiteralString) -> LiteralString:
    """Return what ranking reads of a row, of which ``passes`` tells whether it may answer."""
    return (
        "id, thread, turn, word_count, words, "
        + passes
        + " AS passes, "
        + ranking.mask(terms)
        + " AS mask, "
        + (
            "0::float8"
            if query.vector is None
            else "CASE WHEN " + passes + " THEN " + _COSINE + " END"
        )
        + " AS cosine, "
        + (_NAMED if query.names else "false")
        + """ AS named, thread IS NOT NULL AND provenance @> '{"role": "assistant"}' AS assistant"""
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
_SCORED: LiteralString = (
    """
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
                SELECT *, """
    + ranking.SCORE
    + """ AS score FROM signal
            ) AS scored
            WHERE %(min_score)s::float8 IS NULL OR score >= %(min_score)s::float8
            ORDER BY score DESC, id
            LIMIT %(k)s OFFSET %(offset)s
        ) AS page, ranks
    )"""
)


def _found(rows: Sequence[Row], query: Query) -> Found:
    if query.index is None:
        return Found(hits=[_hit(row, query) for row in rows])
    hits = [_hit(row, query) for row in rows if row["place"] is not None]
    return Found(hits=hits, enough=bool(rows) and rows[0]["enough"])


def _hit(row: Row, query: Query) -> Hit:
    weights = query.weights
    route = "exact" if query.index is None else "index"
    if query.terms is None:
        share = weights.dense * row["cosine"]
        return Hit(
            cube=cube_from(row),
            score=share,
            dense_rank=query.offset + row["place"],
            lexical_rank=None,
            reasons={"dense": share},
            route=route,
            context=_context(row),
        )
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
        route=route,
        context=_context(row),
    )


def _context(row: Row) -> tuple[Message, ...]:
    turns = cast("list[dict[str, Any]] | None", row.get("context"))
    return tuple(message_from(turn) for turn in turns or ())
