"""Texts to token ids, in which no text becomes a control token by itself."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, cast

from tokenizers import Tokenizer

if TYPE_CHECKING:
    from tokenizers import AddedToken
    from transformers import PreTrainedTokenizerBase

_BRACKETED = re.compile(r"<.+>|\[.+\]", re.DOTALL)


class Tokens:
    """A tokenizer of one's own: whether control tokens are seen is a state of a tokenizer.

    ``special`` finds the special tokens in a text, ``control`` all that are not plain text.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, template: str) -> None:
        self._tokenizer = cast("Any", tokenizer)
        self._lock = threading.Lock()
        backend = cast("Tokenizer | None", getattr(tokenizer, "backend_tokenizer", None))
        self._backend = Tokenizer.from_str(backend.to_str()) if backend else None
        if self._backend:  # states of the last call
            self._backend.no_truncation()
            self._backend.no_padding()
        added = cast("Mapping[int, AddedToken]", self._tokenizer.added_tokens_decoder)
        vocabulary = self._backend.to_str() if self._backend else _vocabulary(tokenizer)
        self.shape = hashlib.sha256(vocabulary.encode()).hexdigest()
        special = {token.content for token in added.values() if token.special}
        # Words that were added to a vocabulary are no control tokens, and lines of spaces neither.
        control = special | {
            token.content
            for token in added.values()
            if _BRACKETED.fullmatch(token.content) or token.content in template
        }
        self.special, self.control = _any_of(special), _any_of(control)
        self._control_ids = {
            number for number, token in added.items() if self.control.fullmatch(token.content)
        }
        self._line_break = self._encoded("\n", plain=True)

    def of(self, text: str, *, plain: bool, inside: bool) -> list[int]:
        """Return the ids of a text without any that the tokenizer puts around it."""
        if not inside:
            return self._encoded(text, plain=plain)
        # After a line break, where no tokenizer puts the space with which some begin a text.
        ids = self._encoded(f"\n{text}", plain=plain)
        size = len(self._line_break)
        ids = ids[size:] if ids[:size] == self._line_break else self._encoded(text, plain=plain)
        if plain and self._control_ids.intersection(ids) and (found := self.control.search(text)):
            # Not marked as special, or a word of the vocabulary too: it has to be taken apart.
            parts = (text[: found.start() + 1], text[found.start() + 1 :])
            return [one for part in parts for one in self.of(part, plain=True, inside=True)]
        return ids

    def _encoded(self, text: str, *, plain: bool) -> list[int]:
        with self._lock:
            if self._backend is None:
                return cast(
                    "list[int]",
                    self._tokenizer.encode(
                        text, add_special_tokens=False, split_special_tokens=plain
                    ),
                )
            self._backend.encode_special_tokens = plain
            return self._backend.encode(text, add_special_tokens=False).ids


def _vocabulary(tokenizer: PreTrainedTokenizerBase) -> str:
    known = cast("Any", tokenizer)
    words, added = known.get_vocab(), known.added_tokens_decoder
    return json.dumps([type(tokenizer).__name__, words, added], sort_keys=True, default=repr)


def _any_of(tokens: Iterable[str]) -> re.Pattern[str]:
    longest_first = sorted((token for token in tokens if token.strip()), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first)) or "(?!)")
