"""A retriever over a view."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from datetime import date
from typing import Any, Literal

from llama_index.core.callbacks import CallbackManager
from llama_index.core.retrievers import BaseRetriever
from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode
from llama_index.core.vector_stores.types import MetadataFilter, MetadataFilters
from typing_extensions import override

from memos_core import AsyncView, Hit, Kind, View
from memos_core.background import await_a_little, wait_a_little
from memos_core.facts import facts_of
from memos_core.view.given import checked_view
from memos_llamaindex.behind import unread
from memos_llamaindex.filters import conditions_of

# What tells a program where a memory came from would only distract a language model.
_SPOKEN = {"speaker", "role", "said_at", "valid_from", "valid_to"}


class MemOSRetriever(BaseRetriever):
    """The ``k`` memories of a view that answer a question best, as nodes.

    The other arguments are those of ``View.search``; ``filter`` may be LlamaIndex's
    ``MetadataFilters``, as far as a search can compare so. A node's id is its cube's. Its metadata
    are the cube's, with ``speaker``, ``role``, ``said_at`` (ISO 8601), ``session``,
    ``message_ids``, ``version``, ``reasons`` (the parts of the score) and the like over them; a
    language model is shown the cube's own, who said it and when, and for which time it holds.

    Raises:
        InvalidFilter: a search cannot compare as ``filter`` does.
        InvalidInput: ``memos`` is no view.
    """

    def __init__(
        self,
        *,
        memos: View,
        k: int = 5,
        filter: Mapping[Any, object] | MetadataFilter | MetadataFilters | None = None,
        tags: Iterable[str] | None = None,
        kinds: Iterable[Kind | str] | None = None,
        semantic_type: str | None = None,
        as_of: date | str | None = None,
        valid_at: date | str | None = None,
        min_score: float | None = None,
        mode: Literal["hybrid", "dense", "lexical"] = "hybrid",
        callback_manager: CallbackManager | None = None,
        verbose: bool = False,
    ) -> None:
        super().__init__(  # pyright: ignore[reportUnknownMemberType] its object_map is a bare Dict
            callback_manager=callback_manager, verbose=verbose
        )
        self.memos = checked_view(memos)
        self._options: dict[str, Any] = {
            "k": k,
            "filter": _conditions(filter),
            # One string, which a search refuses, is not taken for its letters.
            "tags": tags if tags is None or isinstance(tags, str) else tuple(tags),
            "kinds": kinds if kinds is None or isinstance(kinds, str) else tuple(kinds),
            "semantic_type": semantic_type,
            "as_of": as_of,
            "valid_at": valid_at,
            "min_score": min_score,
            "mode": mode,
        }

    @override
    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        wait_a_little(unread(self.memos))
        hits = self.memos.search(query_bundle.query_str, **self._options)
        return [_node(hit) for hit in hits]

    @override
    async def _aretrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        await await_a_little(unread(self.memos))
        hits = await AsyncView(self.memos).search(query_bundle.query_str, **self._options)
        return [_node(hit) for hit in hits]


def _conditions(
    filter: Mapping[Any, object] | MetadataFilter | MetadataFilters | None,
) -> Mapping[Any, object] | None:
    if isinstance(filter, MetadataFilter):
        return conditions_of(MetadataFilters(filters=[filter]))
    return conditions_of(filter) if isinstance(filter, MetadataFilters) else filter


class _Memory(TextNode):
    """A memory as a node: the same one, whatever question found it."""

    @property
    @override
    def hash(self) -> str:
        # By this a fusion of several questions tells what it found twice. LlamaIndex's own takes in
        # the metadata, in which the reasons are others for each question.
        return hashlib.sha256(f"{self.node_id}\n{self.text}".encode()).hexdigest()


def _node(hit: Hit) -> NodeWithScore:
    facts = {**facts_of(hit.cube), "reasons": dict(hit.reasons)}
    twice = {"role"} if "speaker" in facts else set[str]()
    if facts.get("valid_from") == facts.get("said_at"):
        twice.add("valid_from")
    unspoken = [name for name in facts if name not in _SPOKEN - twice]
    node = _Memory(
        id_=str(hit.cube.id),
        text=hit.text,
        metadata={  # pyright: ignore[reportCallIssue] LlamaIndex's alias of it is extra_info
            **hit.cube.metadata,
            **facts,
        },
        excluded_llm_metadata_keys=unspoken,
        excluded_embed_metadata_keys=unspoken,
    )
    return NodeWithScore(node=node, score=hit.score)
