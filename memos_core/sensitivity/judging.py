"""What is kept of texts and JSON values, by what is to be done about each kind."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from memos_core.sensitivity.finding import find
from memos_core.sensitivity.kinds import Action, Finding, Sensitive
from memos_core.sensitivity.secret_forms import under
from memos_core.sensitivity.spans import replaced


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """A text as it may be kept, and what was found in the text that was given."""

    text: str  # as it was given where a kind is refused
    kinds: tuple[Sensitive, ...]  # found, whatever their action
    refused: tuple[Sensitive, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class ValuesVerdict:
    """JSON values as they may be kept, and what was found in their texts."""

    values: object  # as they were given where a kind is refused
    kinds: tuple[Sensitive, ...]
    refused: tuple[Sensitive, ...]


def redact(text: str, findings: Sequence[Finding]) -> str:
    """Return a text with each finding's kind in its place: ``[email]``, ``[phone]``."""
    ordered = sorted(findings, key=lambda finding: finding.start)
    return replaced(text, ((one.start, one.end, f"[{one.kind}]") for one in ordered))


def judge(text: str, actions: Mapping[Sensitive, Action], *, region: str | None = None) -> Verdict:
    """Return a text as it may be kept; a kind without an action is allowed."""
    findings = find(text, region=region)
    kinds, refused = _sorted_out((one.kind for one in findings), actions)
    kept = text if refused else _redacted(text, findings, actions)
    return Verdict(text=kept, kinds=kinds, refused=refused)


def judge_values(
    values: object, actions: Mapping[Sensitive, Action], *, region: str | None = None
) -> ValuesVerdict:
    """Return JSON values as they may be kept: the texts in them are judged, keys left alone.

    A text under a key such as "password" is a secret where ``password: text`` would hold one.
    """
    found: set[Sensitive] = set()
    root: list[object] = [values]
    unread: list[dict[Any, object] | list[object]] = [root]  # no recursion: they nest at will
    while unread:
        holder = unread.pop()
        for key, value in list(holder.items() if isinstance(holder, dict) else enumerate(holder)):
            if isinstance(value, str):
                findings = under(key, value) or find(value, region=region)
                found.update(one.kind for one in findings)
                holder[key] = _redacted(value, findings, actions)
            elif isinstance(value, Mapping):
                unread.append(dict(cast("Mapping[Any, object]", value)))
                holder[key] = unread[-1]
            elif isinstance(value, list | tuple):
                unread.append(list(cast("Sequence[object]", value)))
                holder[key] = unread[-1]
    kinds, refused = _sorted_out(found, actions)
    return ValuesVerdict(values=values if refused else root[0], kinds=kinds, refused=refused)


def _redacted(text: str, findings: Sequence[Finding], actions: Mapping[Sensitive, Action]) -> str:
    return redact(text, [one for one in findings if actions.get(one.kind) == Action.REDACT])


def _sorted_out(
    found: Iterable[Sensitive], actions: Mapping[Sensitive, Action]
) -> tuple[tuple[Sensitive, ...], tuple[Sensitive, ...]]:
    kinds = tuple(sorted(set(found), key=list(Sensitive).index))
    return kinds, tuple(kind for kind in kinds if actions.get(kind) == Action.REFUSE)
