"""Scoring a question's words: BM25 of each memory, by itself and with its neighbouring turns.

The SQL reads a CTE ``live`` of the rows to score: ``id, thread, turn, word_count, words, mask,
cosine, passes, named, assistant``. ``mask`` has a bit for each of the question's terms that occurs
in the row. ``COUNTED``, or ``candidates`` for a view with a search index, tells how often each term
occurs; ``WEIGHED`` makes weights of that; and ``signals`` has what a row's score is made of.

Every step passes once over its rows, and none joins many rows with many: a planner that knows
nothing of a table that was just filled would do that in the square of their number.
"""

from __future__ import annotations

from typing import LiteralString

from memos_core.question import Terms
from memos_core.store.arrays import SparseVector
from memos_core.words import HALF

CONTEXT_WORDS = 60  # a neighbour with more is a document of its own, and no context

_MASKS: tuple[LiteralString, ...] = (
    "(-(words <#> %(mask_0)s::sparsevec))::bigint",
    "((-(words <#> %(mask_1)s::sparsevec))::bigint << 24)",
)
_PATTERNS: LiteralString = """(
    SELECT coalesce(bit_or(bit), 0)
    FROM unnest(%(patterns)s::text[], %(bits)s::bigint[]) AS looked_for (pattern, bit)
    WHERE text ~ pattern
)"""
# The idf of a mask's terms, six bits at a time looked up in a table of 64 sums each.
_SUMS: tuple[LiteralString, ...] = (
    "(SELECT sums FROM sums)[1 + (mask & 63)]",
    "(SELECT sums FROM sums)[65 + (mask >> 6 & 63)]",
    "(SELECT sums FROM sums)[129 + (mask >> 12 & 63)]",
    "(SELECT sums FROM sums)[193 + (mask >> 18 & 63)]",
    "(SELECT sums FROM sums)[257 + (mask >> 24 & 63)]",
    "(SELECT sums FROM sums)[321 + (mask >> 30 & 63)]",
    "(SELECT sums FROM sums)[385 + (mask >> 36 & 63)]",
    "(SELECT sums FROM sums)[449 + (mask >> 42 & 63)]",
    "(SELECT sums FROM sums)[513 + (mask >> 48 & 63)]",
    "(SELECT sums FROM sums)[577 + (mask >> 54 & 63)]",
)


def parameters(terms: Terms) -> dict[str, object]:
    """Return what the SQL of this file refers to."""
    words = len(terms.numbers)
    return {
        **{f"mask_{part}": SparseVector(vector) for part, vector in enumerate(terms.masks())},
        "patterns": list(terms.patterns),
        "bits": [1 << (words + place) for place in range(len(terms.patterns))],
        "numbers": list(terms.numbers),
        "places": len(terms),
        "half": HALF,
        "context_words": CONTEXT_WORDS,
    }


def mask(terms: Terms) -> LiteralString:
    """Return the expression of a row's mask."""
    parts: list[LiteralString] = [part for part, _ in zip(_MASKS, terms.masks(), strict=False)]
    if terms.patterns:
        parts.append(_PATTERNS)
    return " | ".join(parts) if parts else "0::bigint"


# How often each term occurs, from the rows themselves. The groups are few: most rows have none of
# the question's terms, or one.
COUNTED: LiteralString = """
    counted AS (
        SELECT mask, count(*) AS cubes, sum(word_count) AS words FROM live GROUP BY mask
    ), corpus AS MATERIALIZED (
        SELECT sum(cubes)::float8 AS size, greatest(sum(words) / sum(cubes), 1)::float8 AS mean
        FROM counted
    ), frequency AS (
        SELECT place, coalesce(sum(cubes) FILTER (WHERE mask >> place & 1 = 1), 0) AS cubes
        FROM generate_series(0, %(places)s - 1) AS place, counted
        GROUP BY place
    )"""

# What a term adds is its idf as a share of the question's: scores compare between questions.
WEIGHED: LiteralString = """
    weight AS MATERIALIZED (
        SELECT
            array_agg(share ORDER BY place) AS shares,
            (
                '{' || coalesce(string_agg(number + %(half)s || ':' || share::float4, ','), '')
                || '}/1000000000'
            )::sparsevec AS repeated
        FROM (
            SELECT
                place, (%(numbers)s::integer[])[place + 1] AS number,
                idf / sum(idf) OVER () AS share
            FROM frequency, corpus, LATERAL (
                SELECT ln(1 + (size - cubes + 0.5) / (cubes + 0.5)) AS idf
            ) AS inverse
        ) AS term
    ), sums AS MATERIALIZED (
        SELECT array_agg(
            coalesce(shares[6 * chunk + 1], 0) * (value & 1)
                + coalesce(shares[6 * chunk + 2], 0) * (value >> 1 & 1)
                + coalesce(shares[6 * chunk + 3], 0) * (value >> 2 & 1)
                + coalesce(shares[6 * chunk + 4], 0) * (value >> 3 & 1)
                + coalesce(shares[6 * chunk + 5], 0) * (value >> 4 & 1)
                + coalesce(shares[6 * chunk + 6], 0) * (value >> 5 & 1)
            ORDER BY chunk, value
        ) AS sums
        FROM weight, generate_series(0, (%(places)s - 1) / 6) AS chunk
        CROSS JOIN generate_series(0, (1 << least(6, %(places)s - 6 * chunk)) - 1) AS value
    ), slope AS MATERIALIZED (
        SELECT 0.9 / mean AS slope FROM corpus
    )"""
# One window, though `lag` and `lead` look at no frame: each window passes over all rows once more.
_SPOKEN: LiteralString = """
    {name}_spoken AS (
        SELECT
            *,
            mask | coalesce(bit_or(mask) FILTER (WHERE short) OVER around, 0) AS near_mask,
            (word_count + coalesce(sum(word_count) FILTER (WHERE short) OVER around, 0))::float8
                / (1 + count(*) FILTER (WHERE short) OVER around) AS near_count,
            coalesce(lag(cosine) OVER around, 0) + coalesce(lead(cosine) OVER around, 0)
                AS near_cosine
        FROM {rows}, LATERAL (SELECT word_count <= %(context_words)s AS short) AS neighbour
        WHERE thread IS NOT NULL
        WINDOW around AS (
            PARTITION BY thread ORDER BY turn, id
            ROWS BETWEEN 2 PRECEDING AND 2 FOLLOWING EXCLUDE CURRENT ROW
        )
    )"""
_SIGNALS: LiteralString = """,
    {name} AS MATERIALIZED (
        SELECT id, cosine, near_cosine, named, assistant, {bm25} AS bm25, {near_bm25} AS near_bm25
        FROM {name}_spoken WHERE passes
        UNION ALL
        SELECT id, cosine, 0, false, false, bm25, bm25
        FROM (
            SELECT id, cosine, {bm25} AS bm25 FROM {rows} WHERE passes AND thread IS NULL OFFSET 0
        ) AS alone
    )"""
# A memory's score, of what `signals` knows of it.
SCORE: LiteralString = """
    %(dense)s * cosine + %(dense_context)s * near_cosine
        + %(lexical)s * bm25 + %(lexical_context)s * near_bm25
        + CASE WHEN named THEN %(speaker)s ELSE 0 END
        + CASE WHEN assistant THEN %(assistant)s ELSE 0 END"""


# BM25 with k1 = 1.2 and b = 0.75 (Robertson & Zaragoza 2009, §3), without the factor k1 + 1:
#     idf n / (n + k1 (1 - b + b length / mean)), for n = 1: idf / (1.3 + 0.9 length / mean).
# Repetitions saturate as in a text of mean length, idf [2.2 n / (n + 1.2)] / [1.3 + ...], so that
# the factor of n can be stored with the text. What stands alone is its own context.
def signals(terms: Terms, *, rows: LiteralString, name: LiteralString) -> LiteralString:
    """Return the CTE ``name`` of what the scores of ``rows`` are made of, after ``WEIGHED``."""
    sums: list[LiteralString] = [
        part for part, _ in zip(_SUMS, range(0, len(terms), 6), strict=False)
    ]
    total: LiteralString = " + ".join(sums) if sums else "0"
    bm25: LiteralString = (
        "CASE WHEN mask = 0 THEN 0 ELSE ("
        + total
        + """ - (words <#> (SELECT repeated FROM weight)))
            / (1.3 + (SELECT slope FROM slope) * word_count) END"""
    )
    near_bm25: LiteralString = (
        "CASE WHEN near_mask = 0 THEN 0 ELSE ("
        + total.replace("mask", "near_mask")
        + ") / (1.3 + (SELECT slope FROM slope) * near_count) END"
    )
    return (_SPOKEN + _SIGNALS).format(rows=rows, name=name, bm25=bm25, near_bm25=near_bm25)
