"""The turns of a conversation that were said around what a search found."""

from __future__ import annotations

from typing import LiteralString

from memos_core.store.statements.columns import SAID
from memos_core.store.statements.permission import MAY_READ_MESSAGE

# What may not be read takes no place among the turns around.
_TOLD: LiteralString = (
    """ AND forgotten_at IS NULL
        AND recorded_at <= coalesce(%(as_of)s::timestamptz, 'infinity')
        AND """
    + MAY_READ_MESSAGE
)
CONTEXT: LiteralString = (
    """(
        SELECT jsonb_agg(to_jsonb(turn) ORDER BY turn.position)
        FROM (
            SELECT DISTINCT ON (near.position) near.* FROM """
    + SAID
    + """ AS said JOIN memos.message AS source ON source.tenant = %(tenant)s
                AND source.trail = memos.trail(cube.namespace) AND source.session = said.said_in
                AND source.id = said.said_as
            CROSS JOIN LATERAL (
                (SELECT * FROM memos.message AS before
                 WHERE before.tenant = source.tenant AND before.trail = source.trail
                    AND before.session = source.session AND before.position <= source.position"""
    + _TOLD
    + """
                 ORDER BY before.position DESC LIMIT %(context)s + 1)
                UNION
                (SELECT * FROM memos.message AS after
                 WHERE after.tenant = source.tenant AND after.trail = source.trail
                    AND after.session = source.session AND after.position > source.position"""
    + _TOLD
    + """
                 ORDER BY after.position LIMIT %(context)s)
            ) AS near
        ) AS turn
    )"""
)
