"""Keys, tokens and passwords, by the forms that their makers document.

Each pattern starts at most once in a run of its own characters, and gives none of them back
("++"): both keep it linear.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator
from typing import cast

from memos_core.sensitivity.kinds import HIDDEN, Finding, Sensitive
from memos_core.sensitivity.spans import Span, covered

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
    rf"""(?<=\w://)[^\s/?\#:\[\]<>"']*+:(?!{_UNSET})(?:(?!{HIDDEN})[^\s/?\#])+(?=@)""",
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
_VALUE = re.compile(rf"""(?:(?!{HIDDEN})[^\s"'`<>])++""")
_VALUE_HEAD = re.compile(rf"""(?:(?!{HIDDEN})[^\s"'`<>]){{1,64}}+""")  # enough to judge it by
_BITS = 19  # of information in a value, at least: "hunter2" has 19.7, "room101" 15.7


def secrets(text: str) -> Iterator[Span]:
    """Yield where secrets stand."""
    keys = list(_private_keys(text))
    yield from keys
    left = covered(text, keys)
    for pattern in (_TOKEN, _TOKEN_WITH_HYPHENS, _CREDENTIALS):
        yield from (match.span() for match in pattern.finditer(left))
    yield from _assigned(left)


def _private_keys(text: str) -> Iterator[Span]:
    position = 0
    ends = True  # whether one may still come: else every beginning would look to the end for it
    while begin := _KEY_BEGINS.search(text, position):
        end = _KEY_ENDS.search(text, begin.end()) if ends else None
        ends = end is not None
        end = end or _KEY_LINES.match(text, begin.end())
        if end:
            yield begin.start(), end.end()
        position = (end or begin).end()


def _assigned(text: str) -> Iterator[Span]:
    position = 0
    for name in _ASSIGNED.finditer(text):
        head = _VALUE_HEAD.match(text, name.end())
        if name.start() < position or head is None or not _is_random(head.group()):
            continue
        value = cast("re.Match[str]", _VALUE.match(text, name.end()))
        position = name.end() + len(value.group().rstrip(".,;:)]}\\"))
        yield name.end(), position


def under(key: object, value: str) -> list[Finding]:
    """Return a text as a secret, if its key says that it is one: "password"."""
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
