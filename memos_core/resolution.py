"""What becomes of a turn that says again, or otherwise, what a memory says: by a rule or a model.

The rule does what cannot be wrong, and keeps the rest: two memories of one thing cost a line in a
prompt, and one that replaced another wrongly is lost. So `UPDATE` and `MERGE` are for sentences
that stand by themselves (see ``claims``), in English, by the same speaker; there are no rules for
other languages but one, that the same words on the same day in the same session are the same.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import Any, Literal, cast
from uuid import UUID

from memos_core.claims import (
    Difference,
    by_whomever,
    claim_in,
    clash,
    depends,
    difference,
    spoken,
)
from memos_core.cube import Provenance
from memos_core.errors import InvalidText
from memos_core.fusion import ChatFn
from memos_core.text import checked_text
from memos_core.words import terms_in

NEAREST = 5  # memories that a turn is compared with
# Cosines by all-MiniLM-L6-v2 (docs/decisions/0011). Words decide; these only say what is too far.
SIMILAR = 0.85  # of LoCoMo's turns, 1 % have such a neighbour, and those do say the same again
NEAR = 0.5  # what a model is asked about: contradictions as "I live in Oslo", "I moved to Bergen"
SHARED = 0.5  # of the words of two similar turns
WORDS = 3  # of content that a turn must have: nobody can tell what a "Yes, thanks." was about
LONGEST = 4_000  # characters of a text that a model is shown
UNREADABLE = "the model's answer could not be read"
_ASKS = re.compile(r"[?？؟]\W*$")  # noqa: RUF001 full-width and Arabic marks too
_FENCE = re.compile(r"```(?:json)?\s*(.*?)\s*```", re.DOTALL)
_ASK = """\
You keep the memory of a conversation. You are given what was said just now, and numbered memories \
that may be about the same. Decide what becomes of it:
- "add": it says something that no memory says.
- "merge": it says what one memory says. "text" is null if it says nothing more; else it is one \
memory that says all that both say.
- "update": it replaces one memory, which is no longer true or was wrong. "text" is null if what \
was said now says it all; else it is what is true now.
- "keep_both": they are about the same, and both may be true, or nobody can tell.
Things that happened at different times are different things: add them. When in doubt, "add" or \
"keep_both". A text says nothing that was not said. Answer with one JSON object alone:
{"outcome": "add" | "merge" | "update" | "keep_both", "other": the memory's number or null, \
"text": a text or null, "contradicts": true if both cannot be true}"""


class Outcome(StrEnum):
    """What becomes of a turn: a cube of its own, or a new version of one that is there."""

    ADD = "add"
    UPDATE = "update"
    MERGE = "merge"
    KEEP_BOTH = "keep_both"


@dataclass(frozen=True, kw_only=True, slots=True)
class Turn:
    """What was said, by whom, and when it was said, or else stored."""

    text: str
    provenance: Provenance
    metadata: Mapping[str, object]
    at: datetime


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """A cube that may say the same as a turn, at the version that was looked at.

    ``cosine`` is how near it is to the turn in meaning.
    """

    id: UUID
    version: int
    turn: Turn
    cosine: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Resolution:
    """What becomes of a turn, because of which other cube, and why.

    ``reason`` holds none of the words that were said: the log outlives them. ``text`` is what a
    model makes of both; where it is None, an update says what the turn says, and a merged cube
    what it said. ``contradicts`` tells that both are kept and cannot both be true, ``passed_over``
    that a model was asked and the rule decided.
    """

    outcome: Outcome = Outcome.ADD
    other: UUID | None = None
    similarity: float | None = None
    reason: str = "nothing like it"
    by: Literal["rule", "model"] = "rule"
    text: str | None = None
    contradicts: bool = False
    passed_over: bool = False


def asks(text: str) -> bool:
    """Tell whether a text is a question: it says nothing that could be kept once for all."""
    return bool(_ASKS.search(text))


def decide(new: Turn, candidates: Sequence[Candidate]) -> Resolution:
    """Decide by rule what becomes of a turn; ``candidates`` are the nearest first.

    Of a turn and one cube:

    - `MERGE`: the same claim in the same words ("I'm", "I am" and "I still am" are the same), or
      any words of some content within a day of a session, unless what they mean depends on what
      was said before. Nothing of the turn's metadata may be new.
    - `UPDATE`: a claim that denies the other ("I eat meat", "I don't eat meat any more"), has
      another number ("two dogs", "three dogs") or another value of what everyone has one of ("my
      name is", "my favourite dish is"), or says itself that another place of living or work is new
      ("I live in Bergen now"). Not what was said earlier than the other.
    - `KEEP_BOTH`, and that they contradict each other: as `UPDATE`, but of another speaker, said
      earlier, with contrary metadata, or without a "now"; or two sentences in the present tense
      that differ in one number or one "not" ("The train leaves at 5", "… at 6").
    - `KEEP_BOTH`: so near in meaning and so many words in common that they may say the same.

    Only the same speaker in the same role merges or updates, and no question is compared. Among
    several cubes, the nearest is merged with, unless a later one contradicts it; and where two or
    more would be updated, none is.
    """
    if asks(new.text):
        return Resolution(reason="a question")
    found = [one for candidate in candidates if (one := _compared(new, candidate))]
    at = {candidate.id: candidate.turn.at for candidate in candidates}
    merged = next((one for one in found if one.outcome is Outcome.MERGE), None)
    others = [one for one in found if one.outcome is Outcome.UPDATE or one.contradicts]
    if merged:
        others = [one for one in others if at[_id(one)] > at[_id(merged)]]
    if not others:
        return merged or next(iter(found), Resolution())
    latest = max(others, key=lambda one: at[_id(one)])
    if merged:
        return _kept(latest, "said again after what contradicts it")
    updates = [one for one in others if one.outcome is Outcome.UPDATE]
    if len(updates) > 1:
        return _kept(latest, "several say otherwise")
    return updates[0] if updates else latest


def ask(new: Turn, candidates: Sequence[Candidate], chat: ChatFn, *, limit: int) -> Resolution:
    """Let a language model decide; where its answer cannot be read, the rule does.

    It may not change what another said, nor replace what was said later; both are kept then.
    ``limit`` is how long a text of its may be.
    """
    listed = shown(new, candidates)
    if not listed:
        return decide(new, candidates)
    memories = "\n".join(f"{number}. {_line(one.turn)}" for number, one in enumerate(listed, 1))
    said = f"Memories:\n{memories}\n\nSaid just now:\n{_line(new)}"
    answer = chat([{"role": "system", "content": _ASK}, {"role": "user", "content": said}])
    decided = _read(answer, listed, limit)
    if decided is None:
        return passed_over(new, candidates)
    outcome, other, text, contradicts = decided
    if outcome is Outcome.ADD or other is None:
        return Resolution(by="model", reason="the model's decision")
    resolution = Resolution(
        outcome=outcome,
        other=other.id,
        similarity=other.cosine,
        reason="the model's decision",
        by="model",
        text=text,
        contradicts=contradicts and outcome is Outcome.KEEP_BOTH,
    )
    if outcome is Outcome.KEEP_BOTH:
        return resolution
    against = _objection(new, other.turn, outcome, by_model=True)
    if against is None:
        return resolution
    return replace(
        resolution,
        outcome=Outcome.KEEP_BOTH,
        reason=against,
        text=None,
        contradicts=outcome is Outcome.UPDATE,
    )


def shown(new: Turn, candidates: Sequence[Candidate]) -> list[Candidate]:
    """Return the cubes about which a model is asked, none where the rule decides."""
    if asks(new.text) or len(new.text) > LONGEST:
        return []
    return [one for one in candidates if one.cosine >= NEAR and len(one.turn.text) <= LONGEST]


def passed_over(new: Turn, candidates: Sequence[Candidate]) -> Resolution:
    """Decide by rule what a model gave no usable answer to."""
    decided = decide(new, candidates)
    return replace(decided, reason=f"{UNREADABLE}; {decided.reason}", passed_over=True)


def joined(new: Turn, old: Turn, resolution: Resolution) -> Turn:
    """Return what a cube says, and whence, once a turn is part of it."""
    replaces = resolution.outcome is Outcome.UPDATE
    ours, theirs = _sources(new.provenance), _sources(old.provenance)
    sources = list(dict.fromkeys([*ours, *theirs] if replaces else [*theirs, *ours]))
    # What was added and not said stays nobody's words.
    origin = new.provenance if replaces and old.provenance.role else old.provenance
    return Turn(
        text=resolution.text or (new.text if replaces else old.text),
        provenance=replace(
            origin,
            session=sources[0][0],
            message_ids=tuple(message for _, message in sources),
            sessions=tuple(session for session, _ in sources) if len(sources) > 1 else (),
            created_by=old.provenance.created_by,
            restored_from=None,
            watermark=old.provenance.watermark,
        ),
        metadata={**old.metadata, **new.metadata},
        at=new.at if replaces else old.at,
    )


def _sources(provenance: Provenance) -> list[tuple[str | None, str]]:
    """Return the sessions and ids of the turns that a cube came from."""
    ids = provenance.message_ids
    others = (provenance.session,) * len(ids)  # an archive may tell of fewer than there are
    return list(zip((*provenance.sessions, *others), ids, strict=False))


def _compared(new: Turn, old: Candidate) -> Resolution | None:
    """Decide by rule about a turn and one cube; None where they have nothing in common."""
    if asks(old.turn.text):
        return None
    outcome, reason = _outcome(new, old.turn)
    found = Resolution(outcome=outcome, other=old.id, similarity=old.cosine, reason=reason)
    if outcome is Outcome.ADD or not _about_the_same(new, old.turn):
        if old.cosine < SIMILAR or _in_common(new.text, old.turn.text) < SHARED:
            return None
        return replace(found, outcome=Outcome.KEEP_BOTH, reason="similar")
    if outcome is Outcome.KEEP_BOTH:
        return replace(found, contradicts=True)
    against = _objection(new, old.turn, outcome)
    if against is None:
        return found
    contrary = outcome is Outcome.UPDATE
    return replace(found, outcome=Outcome.KEEP_BOTH, reason=against, contradicts=contrary)


def _outcome(new: Turn, old: Turn) -> tuple[Outcome, str]:
    """Return what the words alone say: `KEEP_BOTH` for a contradiction that none can settle."""
    ours, theirs = claim_in(new.text), claim_in(old.text)
    told = difference(ours, theirs) if ours and theirs else None
    changed = ours is not None and ours.changed
    if told is Difference.NOTHING and theirs and theirs.changed == changed:
        return Outcome.MERGE, told
    if _is_echo(new, old):
        return Outcome.MERGE, "the same words on the same day"
    if told is Difference.PLACE and not changed:
        return Outcome.KEEP_BOTH, told
    if told and told is not Difference.NOTHING:
        return Outcome.UPDATE, told
    against = clash(new.text, old.text)
    return (Outcome.KEEP_BOTH, against) if against else (Outcome.ADD, "")


def _is_echo(new: Turn, old: Turn) -> bool:
    """Tell whether the same was said in the same session on the same day, word for word."""
    words = spoken(new.text)
    return (
        words == spoken(old.text)
        and new.provenance.session == old.provenance.session
        and new.at.date() == old.at.date()
        and len(set(terms_in(new.text))) >= WORDS
        and not depends(words)
    )


def _objection(new: Turn, old: Turn, outcome: Outcome, *, by_model: bool = False) -> str | None:
    """Return why a turn may not change a cube, if it may not.

    What was added and not said is nobody's: a model may change it by what a user says.
    """
    ours, theirs = new.provenance, old.provenance
    of_nobody = by_model and theirs.role is None and ours.role == "user"
    if not of_nobody and (ours.role, ours.speaker) != (theirs.role, theirs.speaker):
        return "said by another"
    if outcome is Outcome.UPDATE and new.at < old.at:
        return "said before it"
    known = old.metadata
    if any(key in known and known[key] != value for key, value in new.metadata.items()):
        return "other metadata"
    return None


def _about_the_same(new: Turn, old: Turn) -> bool:
    """Tell whether two turns mean the same by their words: another's "I" is somebody else."""
    ours, theirs = new.provenance, old.provenance
    same = (ours.role, ours.speaker) == (theirs.role, theirs.speaker)
    return same or all(by_whomever(spoken(turn.text)) for turn in (new, old))


def _in_common(new: str, old: str) -> float:
    """Return the share of words of content that two texts have in common, 0 for few words."""
    ours, theirs = set(terms_in(new)), set(terms_in(old))
    if min(len(ours), len(theirs)) < WORDS:
        return 0.0
    return len(ours & theirs) / len(ours | theirs)


def _kept(resolution: Resolution, reason: str) -> Resolution:
    """Return that both are kept, since they contradict each other and nobody can settle it."""
    return replace(resolution, outcome=Outcome.KEEP_BOTH, reason=reason, contradicts=True)


def _id(resolution: Resolution) -> UUID:
    return cast("UUID", resolution.other)


def _line(turn: Turn) -> str:
    """Return a turn for a prompt, with no line break that could pass for another's number."""
    speaker = turn.provenance.speaker or turn.provenance.role
    said = json.dumps(turn.text, ensure_ascii=False)
    return f"[{turn.at:%Y-%m-%d}] {speaker}: {said}" if speaker else f"[{turn.at:%Y-%m-%d}] {said}"


def _read(
    answer: object, shown: Sequence[Candidate], limit: int
) -> tuple[Outcome, Candidate | None, str | None, bool] | None:
    """Return what a model decided, None where it cannot be understood."""
    if not isinstance(answer, str):
        return None
    fenced = _FENCE.fullmatch(answer.strip())
    try:
        found: object = json.loads(fenced[1] if fenced else answer)
        if not isinstance(found, dict):
            return None
        fields = cast("dict[str, Any]", found)
        outcome = Outcome(fields["outcome"])
        if outcome is Outcome.ADD:
            return outcome, None, None, False
        number, text = fields["other"], fields.get("text")
        if type(number) is not int or not 1 <= number <= len(shown):
            return None
        if text is not None:
            text = checked_text(text, limit=limit)
    except (KeyError, TypeError, ValueError, RecursionError, InvalidText):
        return None
    return outcome, shown[number - 1], text, fields.get("contradicts") is True
