"""A retriever over a view."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import date
from typing import Any

from llama_index.core.callbacks import CallbackManager
from llama_index.core.retrievers import BaseRetriever
from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode

from memos_core import AsyncView, Hit, Kind, View

# What tells a program where a memory came from would only distract a language model.
_UNSPOKEN = ("message_ids", "version", "namespace", "reasons")


class MemOSRetriever(BaseRetriever):
    """The ``k`` memories of a view that answer a question best, as nodes.

    The other arguments are those of ``View.search``. A node's id is its cube's. Its metadata are
    the cube's with ``speaker``, ``said_at`` (ISO 8601), ``message_ids``, ``version``,
    ``namespace`` and ``reasons`` (the parts of the score) over them; a language model is shown the
    cube's own and the first two.
    """

    def __init__(
        self,
        *,
        memos: View,
        k: int = 5,
        filter: Mapping[Any, object] | None = None,
        tags: Iterable[str] | None = None,
        kinds: Iterable[Kind | str] | None = None,
        semantic_type: str | None = None,
        as_of: date | str | None = None,
        valid_at: date | str | None = None,
        min_score: float | None = None,
        callback_manager: CallbackManager | None = None,
        verbose: bool = False,
    ) -> None:
        super().__init__(  # pyright: ignore[reportUnknownMemberType] its object_map is a bare Dict
            callback_manager=callback_manager, verbose=verbose
        )
        self.memos = memos
        self._options: dict[str, Any] = {
            "k": k,
            "filter": filter,
            "tags": None if tags is None else tuple(tags),
            "kinds": None if kinds is None else tuple(kinds),
            "semantic_type": semantic_type,
            "as_of": as_of,
            "valid_at": valid_at,
            "min_score": min_score,
        }

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        hits = self.memos.search(query_bundle.query_str, **self._options)
        return [_node(hit) for hit in hits]

    async def _aretrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        hits = await AsyncView(self.memos).search(query_bundle.query_str, **self._options)
        return [_node(hit) for hit in hits]


def _node(hit: Hit) -> NodeWithScore:
    cube, origin = hit.cube, hit.cube.provenance
    said_at = origin.said_at or cube.valid_from
    metadata: dict[str, Any] = {
        **cube.metadata,
        "speaker": origin.speaker or origin.role,
        "said_at": said_at.isoformat() if said_at else None,
        "message_ids": list(hit.message_ids),
        "version": cube.version,
        "namespace": list(cube.namespace),
        "reasons": dict(hit.reasons),
    }
    node = TextNode(
        id_=str(cube.id),
        text=cube.text,
        metadata={key: value for key, value in metadata.items() if value is not None},
        excluded_llm_metadata_keys=list(_UNSPOKEN),
        excluded_embed_metadata_keys=list(_UNSPOKEN),
    )
    return NodeWithScore(node=node, score=hit.score)
