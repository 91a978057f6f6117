"""IBANs and the numbers of payment cards, by their forms and checksums."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache

from memos_core.sensitivity.spans import Span

_IBAN = re.compile(
    r"(?<!\w)(?=([a-z]{2}\d{2}(?:[a-z0-9]{11,30}|(?:[ -][a-z0-9]{4}){2,7}(?:[ -][a-z0-9]{1,4})?)))",
    re.ASCII | re.IGNORECASE,
)
_WORD = re.compile(r"\w", re.ASCII)


def ibans(text: str) -> Iterator[Span]:
    """Yield where IBANs stand."""
    for match in _IBAN.finditer(text):
        written = match.group(1)
        length = _iban_length(written[:2].upper())
        if written[4] in " -":
            length += (length - 1) // 4
        end = match.start() + length
        if 0 < length <= len(written) and not _WORD.match(text, end) and _is_iban(written[:length]):
            yield match.start(), end


@cache
def _iban_length(country: str) -> int:
    """Return how long a country's IBANs are, 0 where there are none."""
    from stdnum import numdb  # noqa: PLC0415 with the first that looks like one

    structure = numdb.get("iban").info(country)[0][1].get("bban", "")  # such as "4!n4!n12!c"
    return 4 + sum(map(int, re.findall(r"(\d+)!", structure))) if structure else 0


def _is_iban(written: str) -> bool:
    from stdnum import iban  # noqa: PLC0415 with the first that looks like one

    return iban.is_valid(written, check_country=False)  # lists of banks age


# Numbers of ISO/IEC 7812 as they are printed on cards: no part of a longer number or of a phone
# number with its country code, and no digits after a decimal point.
_CARDS = tuple(
    re.compile(rf"(?<![\w+.])(?=({shape})(?!\w))", re.ASCII)
    for shape in (
        r"\d{13,19}",
        r"\d{4}([ -])\d{4}\2\d{4}\2\d{4}",
        r"\d{4}([ -])\d{4}\2\d{4}\2\d{4}\2\d{1,3}",
        r"\d{4}([ -])\d{6}\2\d{4,5}",
    )
)
# https://en.wikipedia.org/wiki/Payment_card_number#Issuer_identification_number_(IIN)
_ISSUED = re.compile(
    r"""4\d{12}(?:\d{3}){0,2}  # Visa
    |(?:5[1-5]\d\d|222[1-9]|22[3-9]\d|2[3-6]\d\d|27[01]\d|2720)\d{12}  # Mastercard
    |3[47]\d{13}  # American Express
    |3(?:0[0-5]|[689]\d)\d{11,16}  # Diners Club
    |35(?:2[89]|[3-8]\d)\d{12,15}  # JCB
    |(?:6011|64[4-9]\d|65\d\d|62\d\d|8[12]\d\d)\d{12,15}  # Discover, UnionPay, RuPay
    |(?:60\d\d|508\d|9792)\d{12}  # RuPay, Troy
    |(?:5018|5020|5038|5893|6304|6759|676[1-3])\d{9,15}  # Maestro
    |220[0-4]\d{12,15}  # Mir
    """,
    re.VERBOSE | re.ASCII,
)
_BARCODE = 13  # digits of an EAN, and of no card issued in this century


def cards(text: str) -> Iterator[Span]:
    """Yield where the numbers of payment cards stand."""
    for pattern in _CARDS:
        for match in pattern.finditer(text):
            number = match.group(1).replace(" ", "").replace("-", "")
            if _ISSUED.fullmatch(number) and _is_card(number):
                yield match.span(1)


def _is_card(number: str) -> bool:
    from stdnum import ean, luhn  # noqa: PLC0415 with the first that looks like one

    return luhn.is_valid(number) and not (len(number) == _BARCODE and ean.is_valid(number))
