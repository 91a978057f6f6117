"""From texts to unit vectors."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from memos_core.errors import EmbedderMismatch, InvalidVector

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Vectors = NDArray[np.float32]  # (number of texts, width), each row of length 1
else:
    Vectors = "numpy.ndarray"  # numpy is loaded with the first vector, not with the package


class Embedder(Protocol):
    """Anything that turns texts into vectors.

    ``name`` must change whenever the vectors would: the database remembers it and refuses another.
    It is the class's name where there is none. An embedder that treats questions otherwise than
    documents is a ``QueryEmbedder`` too.
    """

    @property
    def name(self) -> str:
        """What the database remembers, such as the model's id and revision."""
        ...

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Return float32 vectors of shape (len(texts), width)."""
        ...


@runtime_checkable
class QueryEmbedder(Protocol):
    """What an embedder has as well whose model wants questions marked as such."""

    def embed_queries(self, texts: Sequence[str]) -> Vectors:
        """Return float32 vectors of shape (len(texts), width), to compare with ``embed``'s."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Model:
    """An embedding model as the database knows it: its name and the width of its vectors."""

    name: str
    width: int

    def __str__(self) -> str:
        return f"{self.name!r} ({self.width} dimensions)"

    def as_json(self) -> str:
        """Return what the database writes down."""
        return json.dumps({"name": self.name, "width": self.width})


def wrong_model(
    stored: Model, mine: Model | str = "the embedder of this MemOS"
) -> EmbedderMismatch:
    """Say that the database's vectors are another model's, and what to do."""
    return EmbedderMismatch(
        f"this database was embedded by {stored}, not by {mine}: open it with that model, or run "
        "`memos reembed` (MemOS.reembed) to replace every vector"
    )


def document_vectors(embedder: Embedder, texts: Sequence[str]) -> Vectors:
    """Embed texts to be stored, in one call; checked and of unit length."""
    return unit_vectors(embedder.embed(texts), len(texts), _who(embedder))


def question_vectors(embedder: Embedder, texts: Sequence[str]) -> Vectors:
    """Embed questions, in one call; checked and of unit length."""
    # Not isinstance: to check a protocol takes longer than a small embedder's work.
    embed = getattr(embedder, "embed_queries", embedder.embed)
    return unit_vectors(embed(texts), len(texts), _who(embedder))


def name_of(embedder: Embedder) -> str:
    """Return what the database is to remember of an embedder."""
    return str(getattr(embedder, "name", type(embedder).__qualname__))


def _who(embedder: Embedder) -> str:
    return f"embedder {name_of(embedder)!r}"


def unit_vectors(vectors: object, count: int, who: str) -> Vectors:
    """Return ``count`` vectors, checked and of unit length; ``who`` made them.

    Raises:
        InvalidVector: they are not finite non-zero vectors of one width.
    """
    import numpy as np  # noqa: PLC0415 with the first vector, not with the package

    try:
        array = np.asarray(vectors, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise InvalidVector(f"{who} returned no array of numbers: {error}") from error
    if array.shape[:-1] != (count,) or array.shape[-1] == 0:
        raise InvalidVector(f"{who} returned shape {array.shape} for {count} texts, not (n, width)")
    if not np.isfinite(array).all():
        raise InvalidVector(f"{who} returned NaN or infinity")
    # In float64: the squares of large float32 values overflow.
    lengths = np.linalg.norm(array.astype(np.float64), axis=1, keepdims=True)
    if not lengths.all():
        raise InvalidVector(f"{who} returned a zero vector, which has no direction to compare")
    return (array / lengths).astype(np.float32)
