"""The kinds of sensitive data, what is done about them, and where one was found."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Sensitive(StrEnum):
    """A kind of what should not be kept without thought."""

    EMAIL = "email"
    PHONE = "phone"
    CARD = "card"  # the number of a payment card
    IBAN = "iban"
    SECRET = "secret"  # noqa: S105 names keys, tokens and passwords, and is none


class Action(StrEnum):
    """What is done about a kind that was found."""

    ALLOW = "allow"
    REDACT = "redact"
    REFUSE = "refuse"


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """Where something sensitive stands in a text; positions count characters."""

    kind: Sensitive
    start: int
    end: int


HIDDEN = rf"\[(?:{'|'.join(Sensitive)})\]"  # a pattern of what `redact` puts in a finding's place
