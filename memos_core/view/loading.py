"""Reading an archive into a view."""

from __future__ import annotations

import hashlib
import json
import os
from array import array
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, get_args

from memos_core.archive import ArchiveReader, Limits
from memos_core.embedder import Model, wrong_model
from memos_core.engine import Engine
from memos_core.errors import (
    ArchiveInvalid,
    CubeExists,
    CubeFrozen,
    EmbedderMismatch,
    InvalidInput,
    LimitExceeded,
    RulesChanged,
    SensitiveText,
    TransactionCollided,
)
from memos_core.hit import LoadReport
from memos_core.namespace import Namespace
from memos_core.rules import Ruled, enacted
from memos_core.store.statement import Statement
from memos_core.store.statements import checking, deciding, embeddings, loading, rules, staging
from memos_core.store.statements import events as log
from memos_core.store.statements.checking import Steps
from memos_core.store.statements.deciding import Fates
from memos_core.store.statements.scope import Scope
from memos_core.store.statements.staging import Loading
from memos_core.view.admitting import Admitting
from memos_core.view.bound import listed
from memos_core.view.ruling import refusal
from memos_core.view.staging import Conflict, Source, Staging

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    from memos_core.store.transaction import Transaction

_STORED = {"skip": "skipped", "replace": "replacing", "new ids": None}
_ATTEMPTS = 5  # to load what others write or load meanwhile
# What no other attempt would mend: nothing is kept for one.
_FINAL = (
    *(ArchiveInvalid, CubeExists, CubeFrozen, EmbedderMismatch, InvalidInput, LimitExceeded),
    RulesChanged,
)


def load(
    engine: Engine,
    scope: Scope,
    path: str | os.PathLike[str],
    *,
    conflict: Conflict,
    public_key: Ed25519PublicKey | None,
    limits: Limits,
    report: Callable[[int, int], None],
) -> LoadReport:
    """Load an archive; see ``View.load``."""
    if conflict not in get_args(Conflict):
        raise InvalidInput(f"conflict is one of {', '.join(get_args(Conflict))}, not {conflict!r}")
    with ArchiveReader(path, public_key=public_key, limits=limits) as archive:
        archive.verify()
        model = None
        if archive.counts.get("cubes") or archive.counts.get("versions"):
            model = Model(name=engine.model, width=engine.vectors(["how wide?"]).shape[1])
        source = Source(
            archive=archive, path=os.fsdecode(path), conflict=conflict, model=model, report=report
        )
        done = _load_by_rules(engine, source, scope)
    if done.rules:
        engine.rules_changed()
    engine.others_speak(scope.namespace)
    return done


def _load_by_rules(engine: Engine, source: Source, scope: Scope) -> LoadReport:
    """Load by the rules that are in force here, again where others came into force meanwhile."""
    for _ in range(_ATTEMPTS - 1):
        with suppress(RulesChanged):
            return _Loading(engine, source, scope).run()
    return _Loading(engine, source, scope).run()


def _name(source: Source, scope: Scope, here: Mapping[Namespace, Ruled]) -> str:
    """Return what makes two loadings one: the same archive in the same way to the same place.

    What was put aside by other rules is not of this one.
    """
    what = [source.archive.digest, scope.namespace, source.conflict]
    model = source.model and [source.model.name, source.model.width]
    versions = sorted(ruled.version for ruled in here.values())
    return hashlib.sha256(json.dumps([*what, model, versions]).encode()).hexdigest()


class _Loading:
    """One archive on its way in."""

    def __init__(self, engine: Engine, source: Source, scope: Scope) -> None:
        here = engine.run(rules.around(scope))
        self._engine = engine
        self._source = source
        self._at = Loading(scope=scope, archive=_name(source, scope, here))
        self._admitting = Admitting(here)

    def run(self) -> LoadReport:
        self._take_long(staging.drop_abandoned(self._at))
        try:
            return self._run()
        except _FINAL as error:
            self._take_long(staging.drop(self._at))
            if isinstance(error, SensitiveText | LimitExceeded):
                self._engine.run(refusal(self._at.scope, error, "write"))
            raise

    def _take_long(self, statement: Statement[None]) -> None:
        with self._engine.long_transaction() as transaction:
            transaction.run(statement)

    def _run(self) -> LoadReport:
        for attempt in range(1, _ATTEMPTS + 1):
            Staging(self._engine, self._at, self._source, self._admitting).run()
            self._take_long(staging.measure())
            try:
                if done := self._finish():
                    return done
            except CubeExists:  # somebody adds a cube of the same id at this moment
                if self._source.conflict != "skip" or attempt == _ATTEMPTS:
                    raise
            except TransactionCollided:
                if attempt == _ATTEMPTS:
                    raise
        raise CubeExists(
            f"{self._source.path} is loaded by others at the same time: nothing was loaded here"
        )

    def _finish(self) -> LoadReport | None:
        """Make visible what was put aside; None where some of it is gone again."""
        with self._engine.long_transaction() as transaction:
            transaction.run(checking.lock(self._at))
            self._admitting.lock(transaction)
            self._check_rules(transaction)
            there = transaction.run(staging.lock_parts(self._at))
            if any(part not in there for part in self._source.parts()):
                return None
            self._check(transaction)
            fates = self._decide(transaction)
            if self._admitting.marks:
                transaction.run(loading.marks(self._at))
            if self._admitting.limits:
                arriving = transaction.run(loading.arriving(self._at))
                self._admitting.check_limits(transaction, arriving)
            done = self._store(transaction, fates)
            transaction.run(staging.drop(self._at))
            return done

    def _check_rules(self, transaction: Transaction) -> None:
        if transaction.run(rules.around(self._at.scope)) != self._admitting.here:
            raise RulesChanged(f"rules changed while {self._source.path} was loaded: try again")

    def _check(self, transaction: Transaction) -> None:
        for statement in checking.problems(self._at):
            if problem := transaction.run(statement):
                raise ArchiveInvalid(f"{self._source.path}: {problem}")
        if _is_cyclic(transaction.run(checking.steps(self._at))):
            raise ArchiveInvalid(f"{self._source.path}: by its lineage, a cube was made of itself")

    def _decide(self, transaction: Transaction) -> Fates:
        """Decide what is loaded, and make room for it."""
        at, stored = self._at, _STORED[self._source.conflict]
        for statement in deciding.decide(at, stored=stored):
            transaction.run(statement)
        fates = transaction.run(deciding.fates(at))
        if fates.replaced:
            obstacles = transaction.run(deciding.hold(at))
            if obstacles.frozen:
                raise CubeFrozen(
                    "frozen, or something frozen was made of it, so nothing was loaded: "
                    f"{listed(obstacles.frozen)}; unfreeze it first"
                )
            if obstacles.elsewhere:
                raise CubeExists(
                    f"another namespace has cubes of these ids: {listed(obstacles.elsewhere)}; "
                    "nothing was loaded: use conflict='new ids'"
                )
            for statement in deciding.make_room(at):
                transaction.run(statement)
        return fates

    def _store(self, transaction: Transaction, fates: Fates) -> LoadReport:
        at, model = self._at, self._source.model
        messages = transaction.run(loading.messages(at))
        cubes = versions = 0
        if model is not None and fates.new + fates.replaced:
            known = transaction.run(embeddings.claim(model))
            if known is not None and known != model:
                raise wrong_model(known, model)
            versions = transaction.run(loading.versions(at, model=model))
            cubes = transaction.run(loading.cubes(at, model=model))
            for statement in loading.belongings(at):
                transaction.run(statement)
        counts = {
            "cubes": cubes,
            "versions": versions,
            "messages": messages,
            "lineage": transaction.run(loading.edges(at)),
            "grants": transaction.run(loading.grants(at)),
            "events": transaction.run(
                loading.events(at, renumber=self._source.conflict == "new ids")
            ),
            "rules": self._put_rules_in_force(transaction),
        }
        if any(counts.values()):
            transaction.run(
                log.logged(at.scope, "imported", {**counts, "replaced": fates.replaced})
            )
        return LoadReport(
            **counts,
            replaced=fates.replaced,
            skipped=fates.skipped,
            left_out=fates.left_out,
            embedded=0 if self._source.vectors_fit else cubes + versions,
        )

    def _put_rules_in_force(self, transaction: Transaction) -> int:
        self._check_rules(transaction)  # once more: to store all that may have taken long
        brought = {
            self._at.namespace(below): one
            for below, one in self._source.archive.header.rules.items()
        }
        here = {path: ruled.rules for path, ruled in self._admitting.here.items()}
        new = enacted(brought, here, replace=self._source.conflict == "replace")
        for path, one in new.items():
            transaction.run(rules.establish(Scope(namespace=path), one))
        return len(new)


def _is_cyclic(steps: Steps) -> bool:
    """Tell whether something was made of itself (Kahn's algorithm)."""
    left = array("i", bytes(4 * steps.nodes))  # steps to each that are not taken yet
    for child in steps.children:
        left[child] += 1
    order = sorted(range(len(steps.parents)), key=steps.parents.__getitem__)
    first = array("i", bytes(4 * (steps.nodes + 1)))  # where a parent's steps begin in the order
    for parent in steps.parents:
        first[parent + 1] += 1
    for node in range(steps.nodes):
        first[node + 1] += first[node]
    ready = [node for node in range(steps.nodes) if not left[node]]
    taken = 0
    while ready:
        node = ready.pop()
        taken += 1
        for place in order[first[node] : first[node + 1]]:
            child = steps.children[place]
            left[child] -= 1
            if not left[child]:
                ready.append(child)
    return taken < steps.nodes
