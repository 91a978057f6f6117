"""Signing and verifying, with the extra ``signing`` (the library ``cryptography``)."""

from __future__ import annotations

from typing import cast

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from memos_core.archive.signature import Signature
from memos_core.errors import ArchiveInvalid, InvalidInput


def checked_signing_key(key: Ed25519PrivateKey) -> Ed25519PrivateKey:
    """Return a key that can sign."""
    if not isinstance(cast("object", key), Ed25519PrivateKey):
        raise InvalidInput(f"signing_key must be an Ed25519PrivateKey, not {type(key).__name__}")
    return key


def checked_public_key(key: Ed25519PublicKey) -> Ed25519PublicKey:
    """Return a key that can verify."""
    if not isinstance(cast("object", key), Ed25519PublicKey):
        raise InvalidInput(f"public_key must be an Ed25519PublicKey, not {type(key).__name__}")
    return key


def sign(manifest: bytes, key: Ed25519PrivateKey) -> Signature:
    """Return the signature of a manifest's bytes."""
    return Signature(public_key=key.public_key().public_bytes_raw(), signature=key.sign(manifest))


def verify(signature: Signature | None, manifest: bytes, key: Ed25519PublicKey) -> None:
    """Make sure that the owner of a public key signed these very bytes."""
    if signature is None:
        raise ArchiveInvalid("it is not signed, and a signature was asked for")
    if signature.public_key != key.public_bytes_raw():
        raise ArchiveInvalid(
            f"it is signed with another key than the one given: {signature.public_key.hex()}"
        )
    try:
        key.verify(signature.signature, manifest)
    except InvalidSignature as error:
        raise ArchiveInvalid(
            "its signature does not match: it was altered since it was signed"
        ) from error
