"""How turns are read that may say again, or otherwise, what cubes say already."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from itertools import count
from typing import TYPE_CHECKING, cast
from uuid import UUID

from memos_core import reader, resolution
from memos_core.cube import MemCube
from memos_core.embedder import Vectors
from memos_core.errors import SensitiveText, VersionConflict
from memos_core.fusion import ChatFn
from memos_core.lineage import Relation
from memos_core.message import Message
from memos_core.resolution import NEAREST, Candidate, Outcome, Resolution, Turn
from memos_core.rules import Ruled
from memos_core.store.statements import cubes, events, lineage
from memos_core.store.statements import resolution as statements
from memos_core.store.statements.resolution import Absorbed
from memos_core.view.ruling import Ruling

if TYPE_CHECKING:
    from memos_core.store.transaction import Transaction

RESOLVE_BATCH = 32  # messages in one transaction: each is compared with all that is there
ATTEMPTS = 6  # to decide while others change what is compared


@dataclass(frozen=True, kw_only=True, slots=True)
class _Said:
    """A turn that is to be read; ``comparable`` if it is this caller's, and whole."""

    message: Message
    draft: cubes.Draft
    turn: Turn
    vector: Vectors  # of shape (1, width)
    comparable: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class _Batch:
    """Turns that are read together, and their vectors, of shape (number of turns, width)."""

    said: list[_Said]
    vectors: Vectors

    def only(self, chosen: Callable[[_Said], bool]) -> _Batch:
        """Return those that are chosen."""
        places = [place for place, one in enumerate(self.said) if chosen(one)]
        return _Batch(said=[self.said[place] for place in places], vectors=self.vectors[places])


@dataclass(frozen=True, kw_only=True, slots=True)
class _Answer:
    """What was decided about a turn, and the model's text as the rules let it be kept."""

    resolution: Resolution
    vector: Vectors | None = None
    found: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class _Step:
    """What is to be done with a turn: make it part of ``old``, or else a cube of its own.

    ``new`` is the cube as it then is.
    """

    said: _Said
    answer: _Answer
    old: Candidate | None
    new: Candidate


@dataclass(frozen=True, kw_only=True, slots=True)
class _Asking:
    """A model, and what it said so far of a turn and what is near to it."""

    chat: ChatFn | None
    ruled: Ruled
    answers: dict[object, _Answer] = field(default_factory=dict[object, _Answer])


_Decide = Callable[[_Said, Sequence[Candidate]], _Answer | None]


class Resolving(Ruling):
    """How turns are read that may say again, or otherwise, what cubes say already.

    What is decided about a turn holds for the versions that were looked at: what is to be changed
    is locked, and all is decided again where it has changed. A model is asked while nothing is
    locked, and what it said is carried out if the same is near the turn by then.
    """

    def _read_again(self, messages: Sequence[Message], *, chat: ChatFn | None) -> list[MemCube]:
        """Read messages, and make them part of the cubes that say the same already."""

        def read(ruled: Ruled) -> list[MemCube]:
            batch = self._batch(messages, ruled)
            index = self.engine.index_of(self._scope)
            asking = _Asking(chat=chat, ruled=ruled)
            known, ask = (functools.partial(one, asking) for one in (self._known, self._ask))
            for attempt in count():
                if not batch.said:
                    break
                with self.engine.transaction() as transaction:
                    transaction.run(statements.lock(self._scope))
                    near = self._near(transaction, batch, index)
                    steps = _planned(batch, near, known if attempt < ATTEMPTS else _alone)
                    if steps and self._hold(transaction, steps, ruled):
                        unread = self._unread(transaction, batch)
                        if len(unread.said) == len(batch.said):
                            return self._carry_out(transaction, batch, steps, ruled)
                        batch = unread  # somebody else was quicker to read the others
                if steps is None:
                    _planned(batch, near, ask)
            return []

        return self._by_rules(read)

    def _batch(self, messages: Sequence[Message], ruled: Ruled) -> _Batch:
        settings, now = self.engine.settings, datetime.now(UTC)
        parts = [
            (message, replace(draft, found=self._found_in(draft.text, ruled.rules)))
            for message in messages
            for draft in reader.drafts_from([message], settings=settings)
        ]
        vectors = self.engine.documents([draft.text for _, draft in parts])
        whole = [sum(other is message for other, _ in parts) == 1 for message, _ in parts]
        user = self.caller and self.caller.user
        return _Batch(
            said=[
                _Said(
                    message=message,
                    draft=draft,
                    turn=Turn(
                        text=draft.text,
                        provenance=draft.provenance,
                        metadata=draft.header.metadata,
                        at=message.created_at or now,
                    ),
                    vector=vectors[place : place + 1],
                    # Another's turn, whose reading failed before, is not for this one's model.
                    comparable=whole[place] and user in (None, message.created_by),
                )
                for place, (message, draft) in enumerate(parts)
            ],
            vectors=vectors,
        )

    def _near(
        self, transaction: Transaction, batch: _Batch, index: int | None
    ) -> list[list[Candidate]]:
        found = transaction.run(
            statements.nearest(
                self._scope,
                batch.vectors,
                [one.draft.header.owner for one in batch.said],
                model=self.engine.model,
                k=NEAREST,
                index=index,
            )
        )
        return [[_candidate(cube, cosine) for cube, cosine in near] for near in found]

    def _known(
        self, asking: _Asking, said: _Said, candidates: Sequence[Candidate]
    ) -> _Answer | None:
        """Decide by rule, or return what the model said; None where it has to be asked."""
        chat = asking.chat
        if chat is None or not resolution.shown(said.turn, candidates):
            return _Answer(resolution=resolution.decide(said.turn, candidates))
        return asking.answers.get(_question(said, candidates))

    def _ask(self, asking: _Asking, said: _Said, candidates: Sequence[Candidate]) -> _Answer:
        known = self._known(asking, said, candidates)
        if known:
            return known
        chat, limit = cast("ChatFn", asking.chat), self.engine.settings.max_text
        answer = _Answer(resolution=resolution.ask(said.turn, candidates, chat, limit=limit))
        if answer.resolution.text is not None:
            answer = self._kept_answer(asking, said, candidates, answer.resolution)
        asking.answers[_question(said, candidates)] = answer
        return answer

    def _kept_answer(
        self,
        asking: _Asking,
        said: _Said,
        candidates: Sequence[Candidate],
        decided: Resolution,
    ) -> _Answer:
        """Return a decision with the model's text as the rules let it be kept."""
        try:
            kept = self._kept(decided.text or "", {}, asking.ruled.rules)
        except SensitiveText:
            return _Answer(resolution=resolution.passed_over(said.turn, candidates))
        return _Answer(
            resolution=replace(decided, text=kept.text),
            vector=self.engine.documents([kept.text]),
            found=kept.found,
        )

    def _hold(self, transaction: Transaction, steps: Sequence[_Step], ruled: Ruled) -> bool:
        """Lock what is to be changed; tell whether it is as it was when that was decided."""
        own = [step.said.draft for step in steps if step.old is None]
        longer = sum(
            len(step.new.turn.text) - (len(step.old.turn.text) if step.old else 0) for step in steps
        )
        self._check_write(transaction, ruled, cubes=len(own), characters=longer, writes=len(steps))
        expected: dict[UUID, int] = {}
        for step in steps:
            if step.old is not None and step.old.id not in {draft.id for draft in own}:
                expected.setdefault(step.old.id, step.old.version)
        return transaction.run(statements.hold(self._scope, list(expected))) == expected

    def _unread(self, transaction: Transaction, batch: _Batch) -> _Batch:
        """Lock messages; return those of them that nobody has read yet."""
        due = transaction.run(statements.due(self._scope, [one.message for one in batch.said]))
        return batch.only(lambda one: (one.message.session, one.message.id) in due)

    def _carry_out(
        self, transaction: Transaction, batch: _Batch, steps: Sequence[_Step], ruled: Ruled
    ) -> list[MemCube]:
        scope, model = self._scope, self.engine.model
        alone = {step.said.draft.id for step in steps if step.old is None}
        done: dict[UUID, MemCube] = {}
        if alone:
            own = batch.only(lambda one: one.draft.id in alone)
            made = transaction.run(
                cubes.read(
                    scope,
                    [one.draft for one in own.said],
                    own.vectors,
                    [one.message for one in own.said],
                    model=model,
                    rules=ruled.version,
                )
            )
            done = {cube.id: cube for cube in made}
        for step in steps:
            if step.old is None:
                self._record(transaction, step)
            else:
                done[step.old.id] = self._absorb(transaction, step, step.old, ruled)
        return [done[cube] for cube in dict.fromkeys(step.new.id for step in steps)]

    def _absorb(
        self, transaction: Transaction, step: _Step, old: Candidate, ruled: Ruled
    ) -> MemCube:
        said, answer, new = step.said, step.answer, step.new.turn
        replaced = answer.resolution.outcome is Outcome.UPDATE
        rewritten = replaced or answer.vector is not None
        absorbed = Absorbed(
            message=said.message,
            provenance=new.provenance,
            metadata=new.metadata,
            text=new.text if rewritten else None,
            words=reader.words_in(new.text, new.provenance) if rewritten else None,
            content=rewritten or new.metadata != old.turn.metadata,
            replaced=replaced,
            moved=replaced and new.provenance.role is not None,
            found=tuple(dict.fromkeys((*said.draft.found, *answer.found))),
        )
        vector = answer.vector if answer.vector is not None else said.vector
        changed = transaction.run(
            statements.absorb(
                self._scope,
                old.id,
                absorbed,
                vector if rewritten else None,
                expected=old.version,
                model=self.engine.model,
                rules=ruled.version,
                details=_details(step),
            )
        )
        if changed is None:
            raise VersionConflict(f"others may have taken back that {old.id} may be changed")
        return changed

    def _record(self, transaction: Transaction, step: _Step) -> None:
        """Write down what became of a turn with a cube of its own, if anything was like it."""
        decided, cube = step.answer.resolution, step.new.id
        if decided.other is not None and decided.contradicts:
            transaction.run(lineage.relate(self._scope, cube, decided.other, Relation.CONTRADICTS))
        if decided.outcome is not Outcome.ADD or decided.passed_over:
            ids = [cube] if decided.other is None else [cube, decided.other]
            transaction.run(events.logged(self._scope, "resolved", _details(step), cubes=ids))


def _planned(
    batch: _Batch, near: Sequence[Sequence[Candidate]], decide: _Decide
) -> list[_Step] | None:
    """Decide about turns in order, each beside what those before it have changed.

    None where something is not decided yet.
    """
    standing: dict[UUID, tuple[Candidate, _Said, Vectors]] = {}
    steps: list[_Step] = []
    for said, stored in zip(batch.said, near, strict=True):
        candidates = [one for one in stored if one.id not in standing] + [
            replace(one, cosine=float(said.vector[0] @ vector[0]))
            for one, by, vector in standing.values()
            if by.draft.header.owner == said.draft.header.owner
        ]
        candidates.sort(key=lambda one: -one.cosine)
        answer = decide(said, candidates[:NEAREST] if said.comparable else [])
        if answer is None:
            return None
        step = _step(said, answer, candidates)
        steps.append(step)
        if said.comparable:
            vector = said.vector if answer.vector is None else answer.vector
            standing[step.new.id] = step.new, said, vector
    return steps


def _alone(_said: _Said, _candidates: Sequence[Candidate]) -> _Answer:
    """Decide that a turn has a cube of its own."""
    return _Answer(resolution=Resolution())


def _step(said: _Said, answer: _Answer, candidates: Sequence[Candidate]) -> _Step:
    decided = answer.resolution
    if decided.outcome in (Outcome.ADD, Outcome.KEEP_BOTH):
        new = Candidate(id=said.draft.id, version=1, turn=said.turn, cosine=1.0)
        return _Step(said=said, answer=answer, old=None, new=new)
    (old,) = (one for one in candidates if one.id == decided.other)
    turn = resolution.joined(said.turn, old.turn, decided)
    new = replace(old, version=old.version + 1, turn=turn)
    return _Step(said=said, answer=answer, old=old, new=new)


def _candidate(cube: MemCube, cosine: float) -> Candidate:
    turn = Turn(
        text=cube.text,
        provenance=cube.provenance,
        metadata=cube.metadata,
        at=cube.provenance.said_at or cube.valid_from or cube.updated_at,
    )
    return Candidate(id=cube.id, version=cube.version, turn=turn, cosine=cosine)


def _question(said: _Said, candidates: Sequence[Candidate]) -> object:
    """Return what an answer was about: it holds while this is the same."""
    near = tuple((one.id, one.version, one.turn.text) for one in candidates)
    return said.draft.id, near


def _details(step: _Step) -> Mapping[str, object]:
    """Return what the log says of a decision: no word of what was said."""
    decided, message = step.answer.resolution, step.said.message
    similarity = decided.similarity
    return {
        "outcome": decided.outcome,
        "similarity": None if similarity is None else round(similarity, 3),
        "reason": decided.reason,
        "by": decided.by,
        "message": message.id,
        "session": message.session,
    }
