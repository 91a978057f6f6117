"""E-mail addresses.

By https://www.rfc-editor.org/rfc/rfc5322#section-3.4.1 without quoting, comments and what rather
parts an address from its neighbours (/=?`{|}); any script's letters by RFC 6531.
"""

from __future__ import annotations

import re
import string
from collections.abc import Iterator

from memos_core.sensitivity.spans import Span

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


def emails(text: str) -> Iterator[Span]:
    """Yield where e-mail addresses stand."""
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
