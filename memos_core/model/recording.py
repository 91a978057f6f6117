"""What is written beside a KV cache."""

from __future__ import annotations

from collections.abc import Sequence

from memos_core.cached import CacheRecord
from memos_core.cube import MemCube
from memos_core.model.fingerprint import Fingerprint
from memos_core.model.form import Form
from memos_core.model.prefix import Prefix
from memos_core.model.verification import Verification


def record_of(
    members: Sequence[MemCube],
    fingerprint: Fingerprint,
    prefix: Prefix,
    form: Form,
    checked: Verification,
) -> CacheRecord:
    """Return what a KV cache is of, by which model, in which form, and how near it is."""
    return CacheRecord(
        members=tuple(member.id for member in members),
        fingerprint={**fingerprint.as_json(), "key": fingerprint.key},
        keys=prefix.keys,
        tokens=tuple(map(len, prefix.runs)),
        report={**form.as_json(), **checked.as_json()},
    )
