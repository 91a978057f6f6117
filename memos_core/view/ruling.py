"""What the rules of a namespace do to what is written and read in it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar, cast

from memos_core.errors import LimitExceeded, NotPermitted, RulesChanged, SensitiveText
from memos_core.kept import KeptMessage
from memos_core.message import Message
from memos_core.namespace import Namespace
from memos_core.rules import Ruled, Rules
from memos_core.sensitivity import Action, Sensitive, judge, judge_values
from memos_core.store.statement import Statement
from memos_core.store.statements import events, rules
from memos_core.store.statements.rules import Used
from memos_core.store.statements.scope import Scope
from memos_core.view.bound import Bound

if TYPE_CHECKING:
    from memos_core.store.transaction import Transaction

T = TypeVar("T")
M = TypeVar("M", Message, KeptMessage)


@dataclass(frozen=True, kw_only=True, slots=True)
class Kept:
    """What may be kept of what was to be written, and the sensitive kinds that were found in it."""

    text: str
    metadata: dict[str, object]
    found: tuple[str, ...]


class Ruling(Bound):
    """What the rules of a namespace do to what is written and read in it."""

    def rules(self) -> Rules:
        """Return the rules in force in this namespace: its own, or the nearest above it."""
        return self.engine.run(rules.in_force(self._scope)).rules

    def set_rules(self, new: Rules | None) -> None:
        """Put rules in force in this namespace and below, in every process, from this moment on.

        None takes back its own; those above it are in force then. What was written before stays as
        it is.

        Raises:
            NotPermitted: a caller asks; it is the application that makes the rules.
        """
        if self.caller is not None:
            raise NotPermitted(
                f"{self.caller.user} may not make rules: open the view without a caller"
            )
        self.engine.run(
            rules.abolish(self._scope) if new is None else rules.establish(self._scope, new)
        )
        self.engine.rules_changed()

    def _by_rules(self, act: Callable[[Ruled], T], *, right: str = "write") -> T:
        """Act by the rules in force, again where others came into force meanwhile.

        Raises:
            SensitiveText, LimitExceeded: the rules refuse it, which is written down.
        """
        while True:
            ruled = self.engine.rules(self._scope)
            try:
                return act(ruled)
            except RulesChanged:
                self.engine.rules_changed()
                if self.engine.in_pipeline:
                    raise
            except (SensitiveText, LimitExceeded) as error:
                if self.engine.run(rules.in_force(self._scope)).version == ruled.version:
                    self.engine.log_denied(refusal(self._scope, error, right))
                    raise
                self.engine.rules_changed()

    def _kept(self, text: str, metadata: Mapping[str, object], by: Rules) -> Kept:
        """Return what may be kept of a text and its metadata.

        Raises:
            SensitiveText: nothing may.
        """
        return kept(text, metadata, by, namespace=self.namespace)

    def _kept_message(self, message: Message, by: Rules) -> Message:
        """Return what may be kept of a message."""
        return kept_message(message, by, namespace=self.namespace)

    def _found_in(self, text: str, by: Rules) -> tuple[str, ...]:
        """Return the sensitive kinds in a text that was kept, those that were hidden as well."""
        if not by.sensitive:
            return ()
        found = judge(text, by.sensitive, region=by.region).kinds
        return tuple(
            kind
            for kind, action in by.sensitive.items()
            if kind in found or (action is Action.REDACT and f"[{kind}]" in text)
        )

    def _write(
        self, ruled: Ruled, statement: Statement[T], *, cubes: int, characters: int, writes: int
    ) -> T:
        """Write so much, unless it is more than the rules allow.

        Raises:
            LimitExceeded: it is.
        """
        if not ruled.rules.limits_writes:
            return self.engine.run(statement)
        with self.engine.transaction() as transaction:
            self._check_write(transaction, ruled, cubes=cubes, characters=characters, writes=writes)
            return transaction.run(statement)

    def _check_write(
        self, transaction: Transaction, ruled: Ruled, *, cubes: int, characters: int, writes: int
    ) -> None:
        """Refuse what a transaction is about to write, if it is more than the rules allow.

        Raises:
            LimitExceeded: it is.
        """
        check_write(
            transaction,
            self._ruled_scope(ruled),
            ruled.rules,
            cubes=cubes,
            characters=characters,
            writes=writes,
        )

    def _check_room(self, ruled: Ruled, *, cubes: int, characters: int) -> None:
        """Refuse what will be more than the rules allow, before any of it is stored.

        Raises:
            LimitExceeded: it will.
        """
        if not ruled.rules.limits_writes:
            return
        scope = self._ruled_scope(ruled)
        used = self.engine.run(rules.used(scope, ruled.rules))
        if over := _over(ruled.rules, used, cubes=cubes, characters=characters, writes=cubes):
            raise _exceeded(scope, over)

    def _check_reads(self) -> None:
        """Refuse to read more often than the rules allow.

        Raises:
            LimitExceeded: it would be.
        """

        def check(ruled: Ruled) -> None:
            most = ruled.rules.reads_per_minute
            if most is None:
                return
            scope = self._ruled_scope(ruled)
            if self.engine.run(rules.used(scope, ruled.rules)).reads >= most:
                raise _exceeded(scope, f"reads_per_minute is {most}")

        self._by_rules(check, right="read")

    def _ruled_scope(self, ruled: Ruled) -> Scope:
        return Scope(namespace=ruled.namespace or self.namespace, caller=self.caller)


def kept(
    text: str,
    metadata: Mapping[str, object],
    by: Rules,
    *,
    namespace: Namespace,
    what: str = "this",
) -> Kept:
    """Return what the rules of a namespace let be kept of a text and its metadata.

    Raises:
        SensitiveText: nothing; it names ``what``.
    """
    if not by.sensitive:
        return Kept(text=text, metadata=dict(metadata), found=())
    told = judge(text, by.sensitive, region=by.region)
    noted = judge_values(dict(metadata), by.sensitive, region=by.region)
    found = {*told.kinds, *noted.kinds}
    if refused := [kind for kind in Sensitive if kind in (*told.refused, *noted.refused)]:
        raise SensitiveText(
            f"{what} holds what the rules of {'/'.join(namespace)} refuse: "
            f"{', '.join(refused)}; nothing was stored",
            kinds=tuple(refused),
        )
    return Kept(
        text=told.text,
        metadata=cast("dict[str, object]", noted.values),
        found=tuple(kind for kind in by.sensitive if kind in found),
    )


def kept_message(message: M, by: Rules, *, namespace: Namespace, what: str = "this") -> M:
    """Return what the rules of a namespace let be kept of a message.

    Raises:
        SensitiveText: nothing.
    """
    if not by.sensitive:
        return message
    content = kept(message.content, message.metadata, by, namespace=namespace, what=what)
    extra = kept("", message.extra, by, namespace=namespace, what=what)
    return replace(message, content=content.text, metadata=content.metadata, extra=extra.metadata)


def check_write(
    transaction: Transaction, scope: Scope, by: Rules, *, cubes: int, characters: int, writes: int
) -> None:
    """Refuse what a transaction is about to write where rules of ``scope`` are, if it is too much.

    Raises:
        LimitExceeded: it is.
    """
    if not by.limits_writes:
        return
    transaction.run(rules.lock(scope))
    used = transaction.run(rules.used(scope, by))
    if over := _over(by, used, cubes=cubes, characters=characters, writes=writes):
        raise _exceeded(scope, over)


def _exceeded(scope: Scope, over: str) -> LimitExceeded:
    return LimitExceeded(
        f"{over} in {'/'.join(scope.namespace)}: nothing was done; forget something, wait, or have "
        "the rules changed (set_rules)",
        limit=over,
    )


def refusal(scope: Scope, error: SensitiveText | LimitExceeded, right: str) -> Statement[None]:
    """Return a statement that writes down what the rules refused, and why."""
    because: dict[str, object] = {"because": "limit"}
    if isinstance(error, SensitiveText):
        because = {"because": "sensitive", "kinds": error.kinds}
    else:
        because["limit"] = error.limit
    return events.logged(scope, "denied", {"right": right, **because})


def _over(by: Rules, used: Used, *, cubes: int, characters: int, writes: int) -> str:
    """Name the first limit that would be passed, "" for none."""
    totals = {
        "max_cubes": (by.max_cubes, used.cubes, cubes),
        "max_characters": (by.max_characters, used.characters, characters),
        "writes_per_minute": (by.writes_per_minute, used.writes, writes),
    }
    for name, (most, now, more) in totals.items():
        if most is not None and more > 0 and now + more > most:
            return f"{name} is {most}, there are {now} and this is {more} more"
    return ""
