"""Whether a cube passes a search's filters, in literal pieces: only those that were asked for."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, LiteralString

from memos_core.store.statements.permission import (
    STANDS,
    STANDS_TO_ALL,
    STOOD,
    unheard,
    unheard_then,
)

# A metadata condition is one of these, with parameters of its own, so that no SQL is ever made of
# what a user wrote. Numbers compare with numbers, strings with strings.
_FOUND: LiteralString = "metadata #> %(path_"
_WANTED: LiteralString = "%(value_"
_OF: LiteralString = ")s::text[]"
_IS: LiteralString = ")s::jsonb"
_NUMBERS: tuple[LiteralString, ...] = ("0", "1", "2", "3", "4", "5", "6", "7")
# More of them come as one value, which is looked at anew for each row.
_METADATA: LiteralString = """
    NOT EXISTS (
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
                WHEN '$nin' THEN (found IN (SELECT jsonb_array_elements(wanted))) IS NOT TRUE
                ELSE jsonb_typeof(found) = jsonb_typeof(wanted) AND
                    CASE operator
                        WHEN '$gt' THEN found > wanted
                        WHEN '$gte' THEN found >= wanted
                        WHEN '$lt' THEN found < wanted
                        WHEN '$lte' THEN found <= wanted
                    END
            END, false)
    )
"""
# The first message, mostly the only one, is looked up in a hash table. What was made of others says
# something else as long as one of them came from elsewhere.
_NOT_FROM: LiteralString = """
    (cardinality(message_ids) = 0 OR (
        message_ids[1] NOT IN (SELECT unnest(%(without)s::text[]))
        AND (cardinality(message_ids) = 1 OR NOT message_ids && %(without)s::text[])
    )) AND (NOT derived OR NOT (
        SELECT coalesce(bool_and(left_out), false)
        FROM memos.source CROSS JOIN LATERAL (
            SELECT message_ids && %(without)s::text[] AS left_out FROM memos.cube AS origin
            WHERE origin.tenant = %(tenant)s AND origin.id = source.source AND NOT origin.derived
        ) AS origin
        WHERE source.tenant = %(tenant)s AND source.cube = id
    ))
"""

# As it is shown: that it was read stands beside the cube.
_STATE: LiteralString = """(CASE WHEN state = 'generated' THEN coalesce((
        SELECT 'activated' FROM memos.activation
        WHERE activation.tenant = %(tenant)s AND activation.cube = id
            AND activation.at <= coalesce(%(as_of)s::timestamptz, now())
    ), state) ELSE state END)"""
_HEARD: LiteralString = "(state IN ('generated', 'activated', 'frozen') OR "

_ORDERED: Mapping[str, LiteralString] = {"$gt": " > ", "$gte": " >= ", "$lt": " < ", "$lte": " <= "}


@dataclass(frozen=True, kw_only=True, slots=True)
class Filters:
    """Which cubes may answer.

    ``conditions`` is a compiled metadata filter. ``valid_at`` None asks for what is true at
    ``as_of`` or now; ``any_time`` for what was true whenever. Cubes that came from one of the
    messages ``without`` do not pass, nor what was made of such cubes alone.
    """

    conditions: str | None = None
    tags: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    kinds: tuple[str, ...] | None = None
    semantic_type: str | None = None
    as_of: datetime | None = None
    valid_at: datetime | None = None
    any_time: bool = False
    states: tuple[str, ...] | None = None

    @property
    def selective(self) -> bool:
        """Whether few memories may pass."""
        return bool(
            self.conditions
            or self.tags
            or self.kinds is not None
            or self.semantic_type is not None
            or self.states is not None
        )

    def sql(self, *, governed: bool = True) -> LiteralString:
        """Return the condition; its parameters are this object's fields.

        Where nobody asks by name, not ``governed``, what others are made of may be read.
        """
        moment: LiteralString = "now()"
        if self.valid_at is not None:
            moment = "%(valid_at)s::timestamptz"
        elif self.as_of is not None:
            moment = "%(as_of)s::timestamptz"
        asked = None if self.any_time else moment
        merged = unheard(asked, governed=governed) if self.as_of is None else unheard_then(asked)
        given: list[tuple[bool, LiteralString]] = [
            (self.states is None, _HEARD + merged + ")"),
            (self.states is not None, _STATE + " = ANY(%(states)s::text[])"),
            (True, STOOD if self.as_of else STANDS if governed else STANDS_TO_ALL),
            (not self.any_time, "(valid_from IS NULL OR valid_from <= " + moment + ")"),
            (not self.any_time, "(valid_to IS NULL OR valid_to > " + moment + ")"),
            (bool(self.tags), "tags @> %(tags)s::text[]"),
            (bool(self.without), _NOT_FROM),
            (self.kinds is None, "kind = 'plaintext'"),  # tensors answer no question
            (self.kinds is not None, "kind = ANY(%(kinds)s::text[])"),
            (self.semantic_type is not None, "semantic_type = %(semantic_type)s"),
            (self.conditions is not None, self._metadata()),
        ]
        return " AND ".join([condition for asked, condition in given if asked])

    def _metadata(self) -> LiteralString:
        conditions = self._listed()
        if len(conditions) > len(_NUMBERS):
            return _METADATA
        return " AND ".join(
            [
                _compared(condition["operator"], number)
                for condition, number in zip(conditions, _NUMBERS, strict=False)
            ]
        )

    def _listed(self) -> list[dict[str, Any]]:
        return [] if self.conditions is None else json.loads(self.conditions)

    def parameters(self) -> dict[str, object]:
        """Return what ``sql`` refers to."""
        return {
            **{
                f"{name}_{number}": json.dumps(value) if name == "value" else value
                for condition, number in zip(self._listed(), _NUMBERS, strict=False)
                for name, value in condition.items()
                if name != "operator"
            },
            "conditions": self.conditions,
            "tags": list(self.tags),
            "without": list(self.without),
            "states": None if self.states is None else list(self.states),
            "kinds": None if self.kinds is None else list(self.kinds),
            "semantic_type": self.semantic_type,
            "as_of": self.as_of,
            "valid_at": self.valid_at,
        }


def _compared(operator: str, number: LiteralString) -> LiteralString:
    """Return the comparison of what is found at a path with what is wanted there."""
    found: LiteralString = "(" + _FOUND + number + _OF + ")"
    wanted: LiteralString = _WANTED + number + _IS
    if operator == "$eq":
        return found + " = " + wanted
    if operator == "$ne":
        return found + " IS DISTINCT FROM " + wanted
    if operator in ("$in", "$nin"):
        among: LiteralString = found + " IN (SELECT jsonb_array_elements(" + wanted + "))"
        return among if operator == "$in" else "(" + among + ") IS NOT TRUE"
    return (
        "(jsonb_typeof("
        + found
        + ") = jsonb_typeof("
        + wanted
        + ") AND "
        + found
        + _ORDERED[operator]
        + wanted
        + ")"
    )
