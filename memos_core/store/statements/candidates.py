"""The memories of a large view that may answer, from its search index instead of from all rows.

Candidates are what is nearest in meaning (HNSW), the turns around which the question's rarest words
are found, and all that was written since the index was last extended. They are read from the table
of memories itself and scored as everywhere: an index says where to look, and never what is there.
"""

from __future__ import annotations

from typing import LiteralString

from memos_core.question import Terms
from memos_core.store.statements import ranking
from memos_core.store.statements.scope import INSIDE

DEPTH = 200  # candidates by meaning; hnsw.ef_search is the same
WINDOWS = 250  # places from which candidates by words come: one memory each, or up to eight turns
WORDED = 800  # candidates by words
FILTERED = 10  # times as many places are looked at where a filter may leave few memories of them
DEEPEST = DEPTH // 2  # results, with those skipped, that may be found among so many
EXPANDED = DEPTH // 2  # candidates whose neighbouring turns are read, beside as many as are wanted
POSTINGS = 10_000  # entries of the lists of the rarest words that are read


def parameters(index: int, *, wanted: int, hybrid: bool, filtered: bool) -> dict[str, object]:
    """Return what the SQL of this file refers to."""
    return {
        "index": index,
        "depth": DEPTH if hybrid else wanted,
        "worded": WORDED,
        "expanded": EXPANDED + wanted,
        "postings": POSTINGS,
        "windows": WINDOWS * FILTERED if filtered else WINDOWS,
    }


LATE: LiteralString = """
    late AS MATERIALIZED (
        SELECT id FROM memos.unindexed WHERE tenant = %(tenant)s AND index = %(index)s
    )"""
# IS TRUE keeps the planner from the index of namespaces, which would read the whole view each time.
_INSIDE: LiteralString = " tenant = %(tenant)s AND (" + INSIDE + ") IS TRUE AND "
_BY_ID: LiteralString = " FROM memos.cube WHERE id = found.id AND " + _INSIDE


def fetched(sources: LiteralString, columns: LiteralString, live: LiteralString) -> LiteralString:
    """Return the query of candidates' rows; ``sources`` is a query of their ids."""
    return (
        "SELECT cube.* FROM ("
        + sources
        + ") AS found CROSS JOIN LATERAL (SELECT "
        + columns
        + _BY_ID
        + live
        + " OFFSET 0) AS cube"
    )


def nearest(
    columns: LiteralString, passing: LiteralString, distance: LiteralString
) -> LiteralString:
    """Return the CTE ``nearest``: the rows nearest in meaning of those that pass.

    The scan goes on until enough of them do (pgvector's iterative scan, up to 20,000 vectors).
    """
    return (
        " nearest AS MATERIALIZED (SELECT cube.* FROM memos.indexed AS found "
        "CROSS JOIN LATERAL (SELECT "
        + columns
        + _BY_ID
        + passing
        + """ OFFSET 0) AS cube
        WHERE found.tenant = %(tenant)s AND found.index = %(index)s
        ORDER BY found."""
        + distance
        + " LIMIT %(depth)s)"
    )


def worded(columns: LiteralString, passing: LiteralString) -> LiteralString:
    """Return the CTEs from ``term`` to ``worded``: rows from where the rarest words are found.

    The rarest words come first, as many as can be looked at, and at least one.
    """
    return (
        """
    term AS MATERIALIZED (
        SELECT place - 1 AS place, cubes, windows, cardinality(windows) AS listed
        FROM unnest(%(numbers)s::integer[]) WITH ORDINALITY AS asked (number, place)
        CROSS JOIN LATERAL (
            SELECT cubes, windows FROM memos.indexed_term
            WHERE tenant = %(tenant)s AND index = %(index)s AND term = number OFFSET 0
        ) AS known
    ), looked_at AS MATERIALIZED (
        SELECT term.*, ln(1 + held.cubes / (term.cubes + 0.5::float8)) AS idf
        FROM (
            SELECT *, sum(listed) OVER (ORDER BY cubes, place) - listed AS before FROM term
        ) AS term, memos.search_index AS held
        WHERE before < %(postings)s AND held.tenant = %(tenant)s AND held.id = %(index)s
    ), worded AS MATERIALIZED (
        SELECT cube.* FROM (
            SELECT block, max(score) AS score FROM (
                SELECT spot / 32 AS spot, idf / (1.3 + 1.8 * (spot %% 32) / mean) AS score
                FROM (
                    SELECT spot, sum(idf) AS idf FROM looked_at, unnest(windows) AS spot
                    GROUP BY spot
                ) AS heard, (
                    SELECT words / greatest(cubes, 1)::float8 AS mean FROM memos.search_index
                    WHERE tenant = %(tenant)s AND id = %(index)s
                ) AS held
                ORDER BY score DESC, spot DESC LIMIT %(windows)s
            ) AS best, LATERAL (VALUES (spot), (spot + 1)) AS within (block)
            GROUP BY block ORDER BY max(score) DESC, block DESC
        ) AS likely CROSS JOIN LATERAL (
            SELECT id FROM memos.indexed
            WHERE index = %(index)s AND block = likely.block OFFSET 0
        ) AS found CROSS JOIN LATERAL (SELECT """
        + columns
        + _BY_ID
        + passing
        + """ OFFSET 0) AS cube LIMIT %(worded)s
    )"""
    )


# What is not in the index yet is counted. So are phrases, which the index does not know: only
# candidates are looked through for them, so they pass for rarer than they are.
COUNTED: LiteralString = """
    counted AS (
        SELECT mask, is_late, count(*) AS cubes, sum(word_count) AS words
        FROM own CROSS JOIN LATERAL (SELECT id IN (SELECT id FROM late) AS is_late) AS found
        GROUP BY mask, is_late
    ), corpus AS MATERIALIZED (
        SELECT size, greatest(words / greatest(size, 1), 1)::float8 AS mean
        FROM (
            SELECT
                held.cubes + coalesce(sum(counted.cubes), 0)::float8 AS size,
                held.words + coalesce(sum(counted.words), 0)::float8 AS words
            FROM memos.search_index AS held LEFT JOIN counted ON is_late
            WHERE held.tenant = %(tenant)s AND held.id = %(index)s
            GROUP BY held.tenant, held.id
        ) AS both_parts
    ), frequency AS MATERIALIZED (
        SELECT
            place,
            coalesce((SELECT cubes FROM term WHERE term.place = asked.place), 0) + coalesce((
                SELECT sum(cubes) FROM counted
                WHERE mask >> place & 1 = 1 AND (is_late OR place >= cardinality(%(numbers)s))
            ), 0) AS cubes
        FROM generate_series(0, %(places)s - 1) AS asked (place)
    )"""


def around(terms: Terms, columns: LiteralString, live: LiteralString) -> LiteralString:
    """Return the CTEs from ``own_signal`` to ``live``: the best so far, and the turns around them.

    A turn's score needs two turns on each side. Those next to a candidate may answer as well, and
    need theirs, so four are read; of the outer ones not all neighbours are there.
    """
    turns: LiteralString = (
        ", row_number() OVER () AS distance FROM memos.cube WHERE thread = source.thread AND "
        + _INSIDE
        + live
        + " AND (turn, id) "
    )
    return (
        ranking.signals(terms, rows="own", name="own_signal")
        + """,
    chosen AS MATERIALIZED (
        SELECT own.* FROM own JOIN (
            SELECT id FROM own_signal ORDER BY """
        + ranking.SCORE
        + """ DESC, id LIMIT %(expanded)s
        ) AS best USING (id)
    ), live AS MATERIALIZED (
        SELECT
            id, thread, turn, word_count, words, passes AND distance <= 2 AS passes, mask, cosine,
            named, assistant
        FROM (
            SELECT DISTINCT ON (id) * FROM (
                SELECT *, 0 AS distance FROM chosen
                UNION ALL
                SELECT turns.* FROM chosen AS source CROSS JOIN LATERAL (
                    (SELECT """
        + columns
        + turns
        + """ < (source.turn, source.id) ORDER BY turn DESC, id DESC LIMIT 4)
                    UNION ALL
                    (SELECT """
        + columns
        + turns
        + """ > (source.turn, source.id) ORDER BY turn, id LIMIT 4)
                ) AS turns
                WHERE source.thread IS NOT NULL
            ) AS reached
            ORDER BY id, distance
        ) AS nearby
    )"""
    )


# All that has one of the question's words was looked at, or as much as is wanted was found.
_COMPLETE: LiteralString = """(
        SELECT coalesce(bool_and(listed < memos.max_windows()), true)
            AND coalesce(sum(listed), 0) <= %(windows)s
        FROM term
    ) OR (SELECT count(*) FROM worded) >= %(depth)s"""
# From a few nodes of an HNSW graph no path leads to a few others.
_REACHED: LiteralString = "(SELECT count(*) FROM nearest) >= least(%(depth)s, 0.9 * cubes)"


def enough(*, by_words_alone: bool) -> LiteralString:
    """Return the CTE ``enough``: one row that tells whether the index knew enough, or none.

    It did not where few memories pass the filters, and where it is no more.
    """
    return (
        ", enough AS MATERIALIZED (SELECT ("
        + (_COMPLETE if by_words_alone else _REACHED)
        + """) AS enough FROM memos.search_index
        WHERE tenant = %(tenant)s AND id = %(index)s AND built_at IS NOT NULL)"""
    )
