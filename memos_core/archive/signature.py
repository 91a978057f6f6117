"""The member ``signature.json``: who vouches for the manifest, and so for every member."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

from memos_core.archive.fields import Fields
from memos_core.archive.json_text import parsed
from memos_core.archive.layout import SIGNATURE
from memos_core.errors import ArchiveInvalid

ALGORITHM = "Ed25519"
_HEX = re.compile("[0-9a-f]*")


@dataclass(frozen=True, kw_only=True, slots=True)
class Signature:
    """An Ed25519 signature of the manifest's bytes, and the public key it claims to be made with.

    Anyone can claim: only ``ed25519.verify`` with a key that you trust says more.
    """

    public_key: bytes  # 32
    signature: bytes  # 64

    def as_bytes(self) -> bytes:
        """Return the member."""
        fields = {
            "algorithm": ALGORITHM,
            "public_key": self.public_key.hex(),
            "signature": self.signature.hex(),
        }
        return json.dumps(fields, indent=2).encode() + b"\n"


def read_signature(data: bytes) -> Signature:
    """Return what a member ``signature.json`` claims."""
    fields = Fields(parsed(data, where=SIGNATURE), SIGNATURE)
    if (algorithm := fields.text("algorithm")) != ALGORITHM:
        raise ArchiveInvalid(f"{SIGNATURE} must be of algorithm {ALGORITHM}, not {algorithm!r}")
    return Signature(
        public_key=_hex(fields, "public_key", 32), signature=_hex(fields, "signature", 64)
    )


def _hex(fields: Fields, name: str, length: int) -> bytes:
    text = fields.text(name)
    if len(text) != 2 * length or not _HEX.fullmatch(text):
        raise ArchiveInvalid(f"{fields.where}: {name!r} must be {2 * length} lower-case hex digits")
    return bytes.fromhex(text)
