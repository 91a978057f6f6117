"""Personal data and secrets in texts: found, hidden or refused.

Each kind is looked for in what the kinds before it left: secrets, e-mail addresses, IBANs, cards,
phone numbers. What was found counts as covered up already, so that nothing is found in a text
which ``redact`` returned. Decimal digits, full-width forms, spaces and hyphens of any script count
as their ASCII counterparts. Every search takes time linear in the length of the text.
"""

from __future__ import annotations

import math
import re
import string
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cache, partial
from typing import Any, cast

from memos_core.errors import InvalidInput


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


_COVERED = rf"\[(?:{'|'.join(Sensitive)})\]"  # what `redact` puts in a finding's place


def find(text: str, *, region: str | None = None) -> list[Finding]:
    """Return what is sensitive in a text, in order and without overlaps.

    Phone numbers are found with their country code, as in "+44 20 7946 0018", and with a
    ``region``, such as "GB", also as they are dialled there.

    Raises:
        InvalidInput: a region that no phone number belongs to.
    """
    if region is not None:
        _dialled(region)  # checks it
    searches: dict[Sensitive, Callable[[str], Iterable[tuple[int, int]]]] = {
        Sensitive.SECRET: _secrets,
        Sensitive.EMAIL: _emails,
        Sensitive.IBAN: _ibans,
        Sensitive.CARD: _cards,
        Sensitive.PHONE: partial(_phones, region=region),
    }
    left = _plain(text)
    findings: list[Finding] = []
    for kind, search in searches.items():
        spans = _merged(search(left))
        findings += (Finding(kind=kind, start=start, end=end) for start, end in spans)
        left = _covered(left, spans)
    return sorted(findings, key=lambda finding: finding.start)


def redact(text: str, findings: Sequence[Finding]) -> str:
    """Return a text with each finding's kind in its place: ``[email]``, ``[phone]``."""
    ordered = sorted(findings, key=lambda finding: finding.start)
    return _replaced(text, ((one.start, one.end, f"[{one.kind}]") for one in ordered))


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
                findings = _under(key, value) or find(value, region=region)
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


def _merged(spans: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    merged: list[tuple[int, int]] = []
    for start, end in sorted(spans):
        if merged and start < merged[-1][1]:
            merged[-1] = merged[-1][0], max(end, merged[-1][1])
        else:
            merged.append((start, end))
    return merged


def _replaced(text: str, changes: Iterable[tuple[int, int, str]]) -> str:
    pieces: list[str] = []
    position = 0
    for start, end, instead in changes:
        pieces += text[position:start], instead
        position = end
    return "".join([*pieces, text[position:]])


def _covered(text: str, spans: Iterable[tuple[int, int]]) -> str:
    """Return a text as long as it was, with what no search tells from ``[kind]`` in the spans."""
    return _replaced(text, ((start, end, f"[{'a' * (end - start - 2)}]") for start, end in spans))


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


# Secrets. Each pattern starts at most once in a run of its own characters, and gives none of them
# back ("++"): both keep it linear.

_TOKEN = re.compile(
    r"""(?<!\w)(?:
    # https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_identifiers.html: access keys,
    # temporary ones, bearer tokens, context-specific ones
    (?:AKIA|ASIA|ABIA|ACCA)[A-Z0-9]{16}
    # https://docs.github.com/en/authentication/keeping-your-account-and-data-secure
    # /about-authentication-to-github#githubs-token-formats
    | gh[pousr]_[A-Za-z0-9]{36,}+
    | github_pat_\w{36,}+
    # https://platform.openai.com/docs/api-reference/authentication: the oldest form
    | sk-[A-Za-z0-9]{32,}+
    # https://docs.stripe.com/keys, https://docs.stripe.com/webhooks
    | [sr]k_(?:live|test)_[A-Za-z0-9]{10,}+
    | whsec_[A-Za-z0-9]{24,}+
    # https://huggingface.co/docs/hub/security-tokens
    | (?:hf|api_org)_[A-Za-z0-9]{30,}+
    )(?!\w)""",
    re.VERBOSE | re.ASCII,
)
_TOKEN_WITH_HYPHENS = re.compile(
    r"""(?<![\w-])(?:
    # https://www.rfc-editor.org/rfc/rfc7519; "eyJ" is '{"' in base64. With the prefix it is
    # https://docs.github.com/en/apps/creating-github-apps/authenticating-with-a-github-app
    # /generating-an-installation-access-token-for-a-github-app
    (?:ghs_\d{1,20}_)?eyJ[\w-]{8,}+\.eyJ[\w-]{8,}+\.[\w-]*+
    # https://docs.gitlab.com/security/tokens/#token-prefixes
    | gl(?:pat|oas|dt|rtr?|cbt|ptt|ft|imt|agent|wt|soat|ffct)-[\w-]{20,}+(?:\.[\w-]{2,}+){0,2}
    # https://docs.slack.dev/authentication/tokens
    | (?:xoxe\.)?xox[a-z]-[\w%-]{10,}+
    | xapp-[\w-]{10,}+
    # https://platform.openai.com/docs/api-reference/authentication: of projects, services, admins
    | sk-(?:proj|svcacct|admin|None)-[\w-]{20,}+
    # https://platform.claude.com/docs/en/api/overview
    | sk-ant-[\w-]{20,}+
    # https://docs.cloud.google.com/docs/authentication/api-keys
    | AIza[\w-]{35}(?![\w-])
    )""",
    re.VERBOSE | re.ASCII,
)

# https://www.rfc-editor.org/rfc/rfc7468 and, for "BLOCK", https://www.rfc-editor.org/rfc/rfc9580
_KEY_BEGINS = re.compile(r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----")
_KEY_ENDS = re.compile(r"-----END [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----")
_KEY_LINES = re.compile(r"(?:(?:\s|\\[nr])*+[A-Za-z0-9+/=]{40,}+)+")  # of one that was cut off

# Left to be filled in: ${PASSWORD}, $PASSWORD, {password}, <password>, %(password)s, ***; and code
_UNSET = r"(?:\$(?-i:[{(A-Z])|\{|<|%\(|\*\*)"
_CODE = r"(?:[\w.]++[(\[]|(?:self|cls|this|os|process|settings|config|secrets|env)\.)"

# https://www.rfc-editor.org/rfc/rfc3986#section-3.2.1: user and password of a URL
_CREDENTIALS = re.compile(
    rf"""(?<=\w://)[^\s/?\#:\[\]<>"']*+:(?!{_UNSET})(?:(?!{_COVERED})[^\s/?\#])+(?=@)""",
    re.VERBOSE | re.ASCII,
)

# The names are those of https://cwe.mitre.org/data/definitions/798.html (hard-coded credentials);
# "bearer" is https://www.rfc-editor.org/rfc/rfc6750.
_NAME = r"""(?:pass(?:word|wd|phrase|code)|pwd|credentials?|token
    |secret(?:[ _-]?(?:access[ _-]?)?key)?
    |(?:api|access|account|auth|encryption|private|signing)[ _-]?key)"""
_NAMED = re.compile(rf"{_NAME}\Z", re.VERBOSE | re.ASCII | re.IGNORECASE)
_ASSIGNED = re.compile(
    rf"""(?:{_NAME}
        (?:(?:["'`\\]{{1,3}}\]?)?[ \t]{{0,3}}(?:=>|:=|[:=]{{1,2}})|[ \t]{{1,3}}(?:is|was)[ \t:])
        |bearer[ \t])
    [ \t]{{0,3}}["'`\\]{{0,3}}(?!{_UNSET}|{_CODE})""",
    re.VERBOSE | re.ASCII | re.IGNORECASE,
)
_VALUE = re.compile(rf"""(?:(?!{_COVERED})[^\s"'`<>])++""")
_VALUE_HEAD = re.compile(rf"""(?:(?!{_COVERED})[^\s"'`<>]){{1,64}}+""")  # enough to judge it by
_BITS = 19  # of information in a value, at least: "hunter2" has 19.7, "room101" 15.7


def _secrets(text: str) -> Iterator[tuple[int, int]]:
    keys = list(_private_keys(text))
    yield from keys
    left = _covered(text, keys)
    for pattern in (_TOKEN, _TOKEN_WITH_HYPHENS, _CREDENTIALS):
        yield from (match.span() for match in pattern.finditer(left))
    yield from _assigned(left)


def _private_keys(text: str) -> Iterator[tuple[int, int]]:
    position = 0
    ends = True  # whether one may still come: else every beginning would look to the end for it
    while begin := _KEY_BEGINS.search(text, position):
        end = _KEY_ENDS.search(text, begin.end()) if ends else None
        ends = end is not None
        end = end or _KEY_LINES.match(text, begin.end())
        if end:
            yield begin.start(), end.end()
        position = (end or begin).end()


def _assigned(text: str) -> Iterator[tuple[int, int]]:
    position = 0
    for name in _ASSIGNED.finditer(text):
        head = _VALUE_HEAD.match(text, name.end())
        if name.start() < position or head is None or not _is_random(head.group()):
            continue
        value = cast("re.Match[str]", _VALUE.match(text, name.end()))
        position = name.end() + len(value.group().rstrip(".,;:)]}\\"))
        yield name.end(), position


def _under(key: object, value: str) -> list[Finding]:
    named = isinstance(key, str) and _NAMED.search(key) and _VALUE.fullmatch(value)
    if named and _is_random(value):
        return [Finding(kind=Sensitive.SECRET, start=0, end=len(value))]
    return []


def _is_random(value: str) -> bool:
    """Say whether a value is too random for a word; so is then all that begins with it."""
    value = value.rstrip(".,;:!?)]}\\")
    counts = Counter(value)
    bits = sum(count * math.log2(len(value) / count) for count in counts.values())
    lower, upper = any(map(str.islower, counts)), any(map(str.isupper, counts))
    if any(map(str.isdigit, counts)):
        return bits >= _BITS and any(map(str.isalpha, counts))
    return bits >= _BITS and lower and upper and any(one in "!@#$%^&*+=?~|" for one in counts)


# E-mail addresses: https://www.rfc-editor.org/rfc/rfc5322#section-3.4.1 without quoting, comments
# and what rather parts an address from its neighbours (/=?`{|}); any script's letters by RFC 6531.

_LATIN = "\u00c0-\u036f\u1e00-\u1eff"  # with the combining marks
_OTHER = (  # letters and marks of other scripts, without punctuation
    "\u0370-\u1dff\u1f00-\u1fff\u2c00-\u2dff\u3005-\u3007\u3031-\ud7ff\uf900-\ufdff\ufe70-\ufefc"
    "\uff66-\uffdc\U00010000-\U0001efff\U00020000-\U0003ffff"
)
_SIGNS = ".!#$%&'*+^~-"
_LOCAL_CHARACTER = rf"[{_SIGNS[:-1]}\w{_LATIN}{_OTHER}-]"
_LOCAL = re.compile(rf"(?<!{_LOCAL_CHARACTER})({_LOCAL_CHARACTER}++)@", re.ASCII)
_ASCII = f"{string.ascii_letters}{string.digits}_{_SIGNS}"
_OTHER_LETTER = re.compile(f"[{_OTHER}]")
_DOMAIN = re.compile(
    rf"""(?!\dx\.|\d+\.\d)  # logo@2x.png, react@18.2.0-beta.rc
    (?:(?:[a-z0-9-]{{1,63}}\.)+(?:xn--[a-z0-9-]{{1,59}}|[a-z]{{2,63}})(?![{_LATIN}])
    |(?:[a-z0-9{_LATIN}{_OTHER}-]{{1,63}}\.)+[a-z{_LATIN}{_OTHER}]{{2,63}})
    (?:(?<=[{_LATIN}{_OTHER}])|(?![a-z0-9]))""",
    re.VERBOSE | re.ASCII | re.IGNORECASE,
)


def _emails(text: str) -> Iterator[tuple[int, int]]:
    position = 0
    for local in _LOCAL.finditer(text):
        domain = _DOMAIN.match(text, local.end())
        if domain is None:
            continue
        name = text[max(position, local.start()) : local.end(1)].lstrip(_SIGNS)
        if domain.group().isascii():
            name = _without_neighbour(name)
        if name not in {"", "git"}:  # git@github.com:… is the address of no one
            yield local.end(1) - len(name), domain.end()
            position = domain.end()


def _without_neighbour(name: str) -> str:
    """Return an ASCII name without the word it touches in a script without spaces: 联系ann."""
    own = name[len(name.rstrip(_ASCII)) :]
    rest = name[: len(name) - len(own)]
    return own if own and _OTHER_LETTER.match(rest[-1:]) else name


_IBAN = re.compile(
    r"(?<!\w)(?=([a-z]{2}\d{2}(?:[a-z0-9]{11,30}|(?:[ -][a-z0-9]{4}){2,7}(?:[ -][a-z0-9]{1,4})?)))",
    re.ASCII | re.IGNORECASE,
)
_WORD = re.compile(r"\w", re.ASCII)


def _ibans(text: str) -> Iterator[tuple[int, int]]:
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


def _cards(text: str) -> Iterator[tuple[int, int]]:
    for pattern in _CARDS:
        for match in pattern.finditer(text):
            number = match.group(1).replace(" ", "").replace("-", "")
            if _ISSUED.fullmatch(number) and _is_card(number):
                yield match.span(1)


def _is_card(number: str) -> bool:
    from stdnum import ean, luhn  # noqa: PLC0415 with the first that looks like one

    return luhn.is_valid(number) and not (len(number) == _BARCODE and ean.is_valid(number))


# Phone numbers are runs of groups of digits; each number has at most eight groups, and from 7 to
# 17 digits: 15 by https://www.itu.int/rec/T-REC-E.164, and the prefix of international calls.
_RUN = re.compile(
    r"""(?<![\w#])(?<![a-z]-)
    (?P<numbers>[+(]{0,3}\d++(?:[ ().\u00ad\u200b\u2060/-]{1,4}+\d++)*+)
    (?:[ ,;]{0,2}(?:ext(?:ension)?\.?|x)[ .]{0,2}\d{1,6}(?!\w))?""",
    re.VERBOSE | re.ASCII | re.IGNORECASE,
)
_GROUP = re.compile(r"\d+", re.ASCII)
_GROUPS = 8
_SIGNS_BEFORE = 2  # as in (+44)
_DIGITS = range(7, 18)
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


@cache
def _dialled(region: str) -> re.Pattern[str]:
    """Return a pattern of the digits dialled in a region: it spares most runs the slow matcher.

    Raises:
        InvalidInput: a region that no phone number belongs to.
    """
    from phonenumbers import PhoneMetadata  # noqa: PLC0415 with the first that needs it

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
    from phonenumbers import (  # noqa: PLC0415 with the first that looks like one
        NumberParseException,
        is_valid_number,
        parse,
    )

    try:
        return bool(_dialled(region).fullmatch(number)) and is_valid_number(parse(number, region))
    except NumberParseException:
        return False


def _phones(text: str, region: str | None) -> Iterator[tuple[int, int]]:
    if region is None and "+" not in text:
        return
    text = _NO_PHONE.sub(lambda match: "\n" * len(match.group()), text)
    for run in _RUN.finditer(text):
        before, stop = max(run.start() - 1, 0), run.end("numbers")
        # With the characters beside it: a number that touches a letter is none. An extension may.
        piece = text[before : stop + (run.end() == stop)]
        groups = [one.span() for one in _GROUP.finditer(piece, run.start() - before, stop - before)]
        if sum(end - start for start, end in groups) < _DIGITS.start:
            continue
        for start, end in _numbers(piece, groups, region):
            yield before + start, run.end() if before + end == stop else before + end


def _numbers(
    text: str, groups: list[tuple[int, int]], region: str | None
) -> Iterator[tuple[int, int]]:
    """Yield the numbers of a run: where it starts, after another one, and with a prefix."""
    from phonenumbers import ndd_prefix_for_region  # noqa: PLC0415 with the first of them

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


def _number(text: str, groups: list[tuple[int, int]], region: str | None) -> tuple[int, int] | None:
    """Return where the longest number stands that begins with the first group."""
    from phonenumbers import PhoneNumberMatcher  # noqa: PLC0415 with the first of them

    begin = groups[0][0]
    sign = text[max(begin - _SIGNS_BEFORE, 0) : begin]
    start = begin - len(sign) + len(sign.rstrip("(+"))
    if region is None and "+" not in text[start:begin]:
        return None
    context = start - 1 if start and not text[start - 1].isdigit() else start
    for count in range(len(groups), 0, -1):
        digits = "".join(text[first:last] for first, last in groups[:count])
        if len(digits) not in _DIGITS or len(digits) < 2 * (count - 1):  # one by one
            continue
        if region and "+" not in text[start:begin] and not _is_dialled(digits, region):
            continue
        end = groups[count - 1][1]
        found = next(iter(PhoneNumberMatcher(text[context : end + 1], region, max_tries=1)), None)
        if found and context + found.start <= begin and context + found.end == end:
            return context + found.start, end
    return None
