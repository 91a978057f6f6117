"""Phone numbers: runs of groups of digits, of which ``dialling`` tells whether they are numbers."""

from __future__ import annotations

import re
from collections.abc import Iterator

from memos_core.sensitivity.spans import Span

_RUN = re.compile(
    r"""(?<![\w#])(?<![a-z]-)
    (?P<numbers>[+(]{0,3}\d++(?:[ ().\u00ad\u200b\u2060/-]{1,4}+\d++)*+)
    (?:[ ,;]{0,2}(?:ext(?:ension)?\.?|x)[ .]{0,2}\d{1,6}(?!\w))?""",
    re.VERBOSE | re.ASCII | re.IGNORECASE,
)
_GROUP = re.compile(r"\d+", re.ASCII)
_NO_PHONE = re.compile(
    r"""[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}  # UUID
    |(?<!\d)(?:19|20)\d\d([-/.]?)(?:0[1-9]|1[0-2])\1(?:0[1-9]|[12]\d|3[01])(?!\d)  # date
    |(?<!\d)[0-3]?\d([-/.])[01]?\d\2(?:19|20)\d\d(?!\d)  # date
    |(?<![\d.])(?=[\d.]{0,12}(?<!\d)(?:\d|\d{3})(?!\d))\d{1,3}(?:\.\d{1,3}){3}(?![\d.])  # IPv4
    |(?<![\d.+])\d\.\d{5,}+(?![\d.])  # decimal fraction
    |(?<!\d)(?:1[5-9]\d{11}(?:\d{3}){0,2}|\d{4}([ -])\d{4}\3\d{4}\3\d{4})(?!\d)  # Unix time, order
    |(?<!\d)97[89][- ]?(?:\d[- ]?){9}\d(?!\d)|ISBN[-: \dX]*+
    """,
    re.VERBOSE | re.ASCII | re.IGNORECASE,
)


def check_region(region: str) -> None:
    """Check a region such as "GB".

    Raises:
        InvalidInput: no phone number belongs to it.
    """
    from memos_core.sensitivity import dialling  # noqa: PLC0415 it loads phonenumbers

    dialling.dialled(region)


def phones(text: str, *, region: str | None) -> Iterator[Span]:
    """Yield where phone numbers stand."""
    if region is None and "+" not in text:
        return
    from memos_core.sensitivity import dialling  # noqa: PLC0415 phonenumbers, once one may be there

    text = _NO_PHONE.sub(lambda match: "\n" * len(match.group()), text)
    for run in _RUN.finditer(text):
        before, stop = max(run.start() - 1, 0), run.end("numbers")
        # With the characters beside it: a number that touches a letter is none. An extension may.
        piece = text[before : stop + (run.end() == stop)]
        groups = [one.span() for one in _GROUP.finditer(piece, run.start() - before, stop - before)]
        if sum(end - start for start, end in groups) < dialling.DIGITS.start:
            continue
        for start, end in dialling.numbers(piece, groups, region):
            yield before + start, run.end() if before + end == stop else before + end
