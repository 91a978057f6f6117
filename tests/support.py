"""What the tests share: an embedder without weights, and addresses of databases."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from urllib.parse import urlencode

import numpy as np
from psycopg.conninfo import conninfo_to_dict

from memos_core.embedder import Vectors


class WordEmbedder:
    """Texts to bags of words hashed into ``width`` dimensions: alike texts, alike vectors."""

    def __init__(self, name: str = "words", width: int = 64) -> None:
        self.name = name
        self.width = width

    def embed(self, texts: Sequence[str]) -> Vectors:
        vectors = np.zeros((len(texts), self.width), np.float32)
        vectors[:, 0] = 0.1  # a text without words has a direction too
        for vector, text in zip(vectors, texts, strict=True):
            for word in re.findall(r"\w+", text.lower()):
                vector[int.from_bytes(hashlib.sha256(word.encode()).digest()[:4]) % self.width] += 1
        return vectors


def url(dsn: str, database: str) -> str:
    """Return the URL of another database on the server of ``dsn``."""
    parameters = {**conninfo_to_dict(dsn), "dbname": database}
    return f"postgresql:///?{urlencode(parameters)}"
