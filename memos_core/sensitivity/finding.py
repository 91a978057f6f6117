"""Where sensitive data stands in a text.

Each kind is looked for in what the kinds before it left: secrets, e-mail addresses, IBANs, cards,
phone numbers. What was found counts as covered up already, so that nothing is found in a text
which ``redact`` returned. Decimal digits, full-width forms, spaces and hyphens of any script count
as their ASCII counterparts. Every search takes time linear in the length of the text.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterable
from functools import partial

from memos_core.sensitivity.accounts import cards, ibans
from memos_core.sensitivity.emails import emails
from memos_core.sensitivity.kinds import Finding, Sensitive
from memos_core.sensitivity.phones import check_region, phones
from memos_core.sensitivity.secret_forms import secrets
from memos_core.sensitivity.spans import Span, covered, merged

_Search = Callable[[str], Iterable[Span]]


def find(text: str, *, region: str | None = None) -> list[Finding]:
    """Return what is sensitive in a text, in order and without overlaps.

    Phone numbers are found with their country code, as in "+44 20 7946 0018", and with a
    ``region``, such as "GB", also as they are dialled there.

    Raises:
        InvalidInput: a region that no phone number belongs to.
    """
    if region is not None:
        check_region(region)
    searches: dict[Sensitive, _Search] = {
        Sensitive.SECRET: secrets,
        Sensitive.EMAIL: emails,
        Sensitive.IBAN: ibans,
        Sensitive.CARD: cards,
        Sensitive.PHONE: partial(phones, region=region),
    }
    left = _plain(text)
    findings: list[Finding] = []
    for kind, search in searches.items():
        spans = merged(search(left))
        findings += (Finding(kind=kind, start=start, end=end) for start, end in spans)
        left = covered(left, spans)
    return sorted(findings, key=lambda finding: finding.start)


def _plain(text: str) -> str:
    """Return a text in which every character stands where it stood, in ASCII where it can."""
    if text.isascii():
        return text
    return text.translate({ord(one): _plain_character(one) for one in set(text)})


def _plain_character(character: str) -> str:
    if character.isdecimal():
        return str(unicodedata.decimal(character))
    if character in "\u2010\u2011\u2012\u2013\u2212":  # hyphens, figure dash, en dash, minus
        return "-"
    if unicodedata.category(character) == "Zs":
        return " "
    if unicodedata.decomposition(character).startswith(("<wide>", "<narrow>")):
        return unicodedata.normalize("NFKC", character)
    return character
