"""Which groups of digits are phone numbers, as ``phonenumbers`` knows them.

Each number has at most eight groups, and from 7 to 17 digits: 15 by
https://www.itu.int/rec/T-REC-E.164, and the prefix of international calls.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache

from phonenumbers import (
    NumberParseException,
    PhoneMetadata,
    PhoneNumberMatcher,
    is_valid_number,
    ndd_prefix_for_region,
    parse,
)

from memos_core.errors import InvalidInput
from memos_core.sensitivity.spans import Span

DIGITS = range(7, 18)
_GROUPS = 8
_SIGNS_BEFORE = 2  # as in (+44)


@cache
def dialled(region: str) -> re.Pattern[str]:
    """Return a pattern of the digits dialled in a region: it spares most runs the slow matcher.

    Raises:
        InvalidInput: a region that no phone number belongs to.
    """
    plan = PhoneMetadata.metadata_for_region(region)
    if plan is None or plan.general_desc is None:
        raise InvalidInput(f"{region!r} is no region with phone numbers: use one such as 'GB'")
    prefix = plan.national_prefix_for_parsing or ""
    pattern = (
        rf"(?:{plan.country_code})?(?:{prefix})?(?:{plan.general_desc.national_number_pattern})"
    )
    if plan.international_prefix:
        pattern += rf"|(?:{plan.international_prefix})\d+"
    if plan.national_prefix_transform_rule:  # what follows is no number yet
        pattern += rf"|(?:{prefix})\d*"
    return re.compile(pattern)


def _is_dialled(number: str, region: str) -> bool:
    """Say whether digits are a phone number there, three times as fast as the matcher says no."""
    try:
        return bool(dialled(region).fullmatch(number)) and is_valid_number(parse(number, region))
    except NumberParseException:
        return False


def numbers(text: str, groups: list[Span], region: str | None) -> Iterator[Span]:
    """Yield the numbers of a run: where it starts, after another one, and with a prefix."""
    trunk = ndd_prefix_for_region(region, strip_non_digits=True) if region else None
    first, fresh = 0, True
    while first < len(groups):
        start, span = groups[first][0], None
        if fresh or text[start - 1] == "(" or (trunk and text.startswith(trunk, start)):
            span = _number(text, groups[first : first + _GROUPS], region)
        first += 1
        if span:
            yield span
            while first < len(groups) and groups[first][0] < span[1]:
                first += 1
        if region is None:
            return  # a "+" only starts a run
        fresh = span is not None


def _number(text: str, groups: list[Span], region: str | None) -> Span | None:
    """Return where the longest number stands that begins with the first group."""
    begin = groups[0][0]
    sign = text[max(begin - _SIGNS_BEFORE, 0) : begin]
    start = begin - len(sign) + len(sign.rstrip("(+"))
    if region is None and "+" not in text[start:begin]:
        return None
    context = start - 1 if start and not text[start - 1].isdigit() else start
    for count in range(len(groups), 0, -1):
        digits = "".join(text[first:last] for first, last in groups[:count])
        if len(digits) not in DIGITS or len(digits) < 2 * (count - 1):  # one by one
            continue
        if region and "+" not in text[start:begin] and not _is_dialled(digits, region):
            continue
        end = groups[count - 1][1]
        found = next(iter(PhoneNumberMatcher(text[context : end + 1], region, max_tries=1)), None)
        if found and context + found.start <= begin and context + found.end == end:
            return context + found.start, end
    return None
