"""The first member, ``memos.json``: what was exported, when and by whom."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import MappingProxyType

from memos_core.archive import values
from memos_core.archive.fields import Fields
from memos_core.archive.layout import FORMAT, HEADER, VERSION, RecordKind, checked_kind
from memos_core.checks import checked_count, checked_label, checked_time
from memos_core.embedder import Model
from memos_core.errors import ArchiveInvalid, InvalidInput
from memos_core.namespace import Namespace
from memos_core.rules import Rules


@dataclass(frozen=True, kw_only=True, slots=True)
class Header:
    """What an archive holds.

    ``contents`` are the kinds of records that were exported, also where there were none;
    ``embedder`` is the model of the embeddings, None where there are none. ``watermark`` and
    ``licence`` are for whoever receives it: nothing here reads them. ``rules`` are those that were
    in force, by the labels below ``namespace``.
    """

    namespace: Namespace
    contents: tuple[RecordKind, ...]
    exported_at: datetime
    exported_by: str | None = None
    embedder: Model | None = None
    watermark: str | None = None
    licence: str | None = None
    rules: Mapping[tuple[str, ...], Rules] = field(default_factory=lambda: MappingProxyType({}))

    def __post_init__(self) -> None:
        kinds = [checked_kind(kind) for kind in self.contents]
        if len(set(kinds)) != len(kinds):
            raise InvalidInput(f"contents name a kind twice: {', '.join(kinds)}")
        if self.exported_at.tzinfo is None:
            raise InvalidInput("exported_at must have a time zone")
        checked_time(self.exported_at, what="exported_at")
        for name in ("exported_by", "watermark", "licence"):
            checked_label(getattr(self, name), what=name)
        if self.embedder:
            checked_label(self.embedder.name, what="the embedder's name")
            checked_count(self.embedder.width, what="the embedder's width", least=1, most=2**20)

    def as_bytes(self) -> bytes:
        """Return the member."""
        model = self.embedder
        fields: dict[str, object] = {
            "format": FORMAT,
            "version": VERSION,
            "namespace": list(self.namespace),
            "exported_at": self.exported_at.astimezone(UTC).isoformat(),
            "exported_by": self.exported_by,
            "embedder": model and {"name": model.name, "width": model.width},
            "watermark": self.watermark,
            "licence": self.licence,
            "contents": list(self.contents),
        }
        if self.rules:
            fields["rules"] = [
                {"below": list(below), "rules": rules.as_json()}
                for below, rules in sorted(self.rules.items())
            ]
        return json.dumps(fields, ensure_ascii=False, indent=2).encode() + b"\n"


def read_header(data: bytes) -> Header:
    """Return what a member ``memos.json`` says, whatever else it may say."""
    fields = Fields.of_member(data, HEADER)
    embedder = None if fields.values.get("embedder") is None else fields.inner("embedder")
    try:
        return Header(
            namespace=Namespace(*fields.texts("namespace")),
            contents=tuple(fields.texts("contents")),  # pyright: ignore[reportArgumentType] checked
            exported_at=datetime.fromisoformat(fields.text("exported_at")),
            exported_by=fields.text_or_none("exported_by"),
            embedder=embedder and Model(name=embedder.text("name"), width=embedder.count("width")),
            watermark=fields.text_or_none("watermark"),
            licence=fields.text_or_none("licence"),
            rules=_rules(fields) if "rules" in fields.values else {},
        )
    except ValueError as error:
        raise ArchiveInvalid(f"{HEADER} cannot be understood: {error}") from error


def _rules(fields: Fields) -> dict[tuple[str, ...], Rules]:
    found: dict[tuple[str, ...], Rules] = {}
    for place, one in enumerate(fields.items("rules")):
        ruled = Fields.of(one, f"{HEADER}: rules {place}")
        below = values.labels(ruled.items("below"))
        if below in found:
            raise ArchiveInvalid(f"{ruled.where} are of the same place as others")
        found[below] = Rules.from_json(ruled.inner("rules").values)
    return found
