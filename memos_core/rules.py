"""What is allowed in a namespace: what may be kept, how much, and for how long."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import timedelta
from types import MappingProxyType
from typing import Any, TypeVar, cast

from memos_core.checks import checked_count
from memos_core.errors import InvalidInput
from memos_core.namespace import Namespace
from memos_core.retention import Retention
from memos_core.sensitivity import Action, Sensitive, find

V = TypeVar("V")
_LIMITS = ("max_cubes", "max_characters", "writes_per_minute", "reads_per_minute")


@dataclass(frozen=True, kw_only=True, slots=True)
class Rules:
    """The rules of a namespace and all below it, unless one of those has rules of its own.

    ``sensitive`` names what is looked for in what is written, and what is done about it: it is
    allowed, hidden before it is stored or embedded, or refused. A cube is marked with the kinds
    that were found. ``export`` is the same for ``dump`` and for channels. ``region`` ("GB") finds
    phone numbers as they are dialled there. ``max_cubes`` and ``max_characters`` count current
    cubes, ``writes_per_minute`` what was added or changed, ``reads_per_minute`` searches and gets,
    by the audit log. ``retention`` is what ``sweep`` goes by when it is told nothing else.

    Raises:
        InvalidInput: an unknown kind, action or region, or a limit that is no number.
    """

    sensitive: Mapping[Sensitive, Action] = field(default_factory=lambda: MappingProxyType({}))
    export: Mapping[Sensitive, Action] = field(default_factory=lambda: MappingProxyType({}))
    region: str | None = None
    max_cubes: int | None = None
    max_characters: int | None = None
    writes_per_minute: int | None = None
    reads_per_minute: int | None = None
    retention: Retention | None = None

    def __post_init__(self) -> None:
        for name in ("sensitive", "export"):
            object.__setattr__(self, name, _checked_actions(getattr(self, name), what=name))
        for name in _LIMITS:
            if getattr(self, name) is not None:
                checked_count(getattr(self, name), what=name, most=2**53)
        if self.region is not None:
            find("", region=self.region)

    @property
    def limits_writes(self) -> bool:
        """Whether what is written has to be counted first."""
        limits = (self.max_cubes, self.max_characters, self.writes_per_minute)
        return any(limit is not None for limit in limits)

    def as_json(self) -> dict[str, object]:
        """Return the rules as JSON values, without those that say nothing."""
        values: dict[str, object] = {
            "sensitive": dict(self.sensitive),
            "export": dict(self.export),
            "region": self.region,
            **{name: getattr(self, name) for name in _LIMITS},
        }
        if self.retention is not None:
            kept = self.retention
            values["retention"] = {
                "floor": kept.floor,
                **{name: _seconds(getattr(kept, name)) for name in _TIMES},
            }
        return {name: value for name, value in values.items() if value not in (None, {})}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Rules:
        """Return rules from what ``as_json`` made of them.

        Raises:
            InvalidInput: somebody else made them, and they are none.
        """
        _check_names(values, cls, what="the rules have")
        given = dict(values)
        if given.get("retention") is not None:
            given["retention"] = _retention(given["retention"])
        try:
            return cls(**given)
        except TypeError as error:
            raise InvalidInput(f"these are no rules: {error}") from error


def _retention(values: object) -> Retention:
    """Return what is kept, and for how long, from JSON: times are seconds."""
    if not isinstance(values, Mapping):
        raise InvalidInput(f"retention is an object such as {{'idle': 86400}}, not {values!r}")
    given = dict(cast("Mapping[str, Any]", values))
    _check_names(given, Retention, what="a retention has")
    try:
        given |= {name: _time(given.get(name)) for name in _TIMES}
        return Retention(**given)
    except (OverflowError, TypeError) as error:
        raise InvalidInput(f"this is no retention: {error}") from error


def _check_names(values: Mapping[str, object], of: type[Rules | Retention], *, what: str) -> None:
    names = [field.name for field in fields(of)]
    if unknown := [name for name in values if name not in names]:
        raise InvalidInput(f"{what} no {unknown[0]!r}; known: {', '.join(names)}")


_TIMES = ("idle", "half_life", "archived")


def _seconds(time: timedelta | None) -> float | None:
    return None if time is None else time.total_seconds()


def _time(seconds: float | None) -> timedelta | None:
    return None if seconds is None else timedelta(seconds=seconds)


def _checked_actions(actions: object, *, what: str) -> Mapping[Sensitive, Action]:
    if not isinstance(actions, Mapping):
        raise InvalidInput(f"{what} must map kinds to actions, not be {actions!r}")
    given = cast("Mapping[object, object]", actions)
    try:
        return MappingProxyType(
            {Sensitive(str(kind)): Action(str(action)) for kind, action in given.items()}
        )
    except ValueError as error:
        raise InvalidInput(
            f"{what}: {error}; kinds are {', '.join(Sensitive)}, actions {', '.join(Action)}"
        ) from error


@dataclass(frozen=True, kw_only=True, slots=True)
class Ruled:
    """The rules that are in force in a namespace, and whose they are; ``version`` 0 is none."""

    rules: Rules = Rules()
    namespace: Namespace | None = None
    version: int = 0


def nearest(rules: Mapping[Namespace, V], path: Sequence[str]) -> V | None:
    """Return what is in force at a path, of what was set at some."""
    lengths = range(len(path), 0, -1)
    known = cast("Mapping[tuple[str, ...], V]", rules)
    return next((known[key] for size in lengths if (key := tuple(path[:size])) in known), None)


def enacted(
    brought: Mapping[Namespace, Rules], here: Mapping[Namespace, Rules], *, replace: bool
) -> dict[Namespace, Rules]:
    """Return which rules that are brought come into force: where there are none here yet.

    With ``replace`` also where others are in force, from above or the path's own.
    """
    new: dict[Namespace, Rules] = {}
    for path, rules in sorted(brought.items(), key=lambda one: len(one[0])):
        ruled = nearest(here, path) is not None
        if not ruled or (replace and nearest({**here, **new}, path) != rules):
            new[path] = rules
    return new
