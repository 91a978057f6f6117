"""The rivals' part of ``benchmarks.rivals``, run in an environment that holds them and no MemOS.

Reads one JSON object (the database's address, the vectors' file, sizes) from standard input and
prints one line of JSON for each rival.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol
from urllib.parse import urlsplit

import numpy as np

WARM_UP = 5


class Table:
    """The shared fake embedder: each text is "row N", and its vector is row N of a table."""

    def __init__(self, path: str) -> None:
        self.vectors = np.load(path)

    def embed_documents(self, texts: Sequence[str]) -> list[list[float]]:
        return [self.vectors[int(text.split()[1])].tolist() for text in texts]

    def embed_query(self, text: str) -> list[float]:
        return self.embed_documents([text])[0]

    def embed(self, text: str, *_: Any) -> list[float]:  # Mem0's name for it
        return self.embed_query(text)

    def embed_batch(self, texts: Sequence[str], *_: Any) -> list[list[float]]:
        return self.embed_documents(texts)


class Rival(Protocol):
    """The work that is measured."""

    def add(self, user: str, texts: Sequence[str]) -> None: ...
    def search(self, user: str, question: str) -> list[str]: ...


class LangGraphStore:
    def __init__(self, address: dict[str, str], table: Table, width: int) -> None:
        import psycopg
        from langgraph.store.postgres import PostgresStore
        from psycopg.rows import dict_row

        connection = psycopg.connect(
            address["libpq"], autocommit=True, prepare_threshold=0, row_factory=dict_row
        )
        self.store = PostgresStore(
            connection, index={"dims": width, "embed": table.embed_documents, "fields": ["text"]}
        )
        self.store.setup()

    def add(self, user: str, texts: Sequence[str]) -> None:
        from langgraph.store.base import PutOp

        self.store.batch([PutOp((user,), text, {"text": text}) for text in texts])

    def search(self, user: str, question: str) -> list[str]:
        return [item.value["text"] for item in self.store.search((user,), query=question)]


class LangChainPostgres:
    def __init__(self, address: dict[str, str], table: Table, width: int) -> None:
        from langchain_core.embeddings import Embeddings
        from langchain_postgres import Column, PGEngine, PGVectorStore

        service = type("Service", (Table, Embeddings), {})
        embedder = service.__new__(service)
        embedder.vectors = table.vectors
        engine = PGEngine.from_connection_string(address["psycopg"])
        columns = [Column("owner", "TEXT")]
        engine.init_vectorstore_table("langchain_rows", width, metadata_columns=columns)
        self.store = PGVectorStore.create_sync(
            engine, embedder, "langchain_rows", metadata_columns=["owner"], k=10
        )

    def add(self, user: str, texts: Sequence[str]) -> None:
        self.store.add_texts(list(texts), metadatas=[{"owner": user}] * len(texts))

    def search(self, user: str, question: str) -> list[str]:
        found = self.store.similarity_search(question, k=10, filter={"owner": user})
        return [document.page_content for document in found]


class LlamaIndexPostgres:
    def __init__(self, address: dict[str, str], table: Table, width: int) -> None:
        from llama_index.vector_stores.postgres import PGVectorStore

        self.table = table
        self.store = PGVectorStore.from_params(
            connection_string=address["psycopg2"],
            async_connection_string=address["asyncpg"],
            table_name="llamaindex_rows",
            embed_dim=width,
            use_jsonb=True,
        )

    def add(self, user: str, texts: Sequence[str]) -> None:
        from llama_index.core.schema import TextNode

        vectors = self.table.embed_documents(texts)
        self.store.add(
            [
                TextNode(text=text, embedding=vector, metadata={"owner": user})
                for text, vector in zip(texts, vectors, strict=True)
            ]
        )

    def search(self, user: str, question: str) -> list[str]:
        from llama_index.core.vector_stores import MetadataFilters, VectorStoreQuery

        answer = self.store.query(
            VectorStoreQuery(
                query_embedding=self.table.embed_query(question),
                similarity_top_k=10,
                filters=MetadataFilters.from_dict({"owner": user}),
            )
        )
        return [node.get_content() for node in answer.nodes or ()]


class Mem0:
    """One call a text: ``add`` takes one conversation, and ``infer=False`` keeps it as it is."""

    def __init__(self, address: dict[str, str], table: Table, width: int) -> None:
        os.environ |= {"MEM0_TELEMETRY": "False", "OPENAI_API_KEY": "none"}
        from mem0 import Memory

        store = {"connection_string": address["libpq"], "embedding_model_dims": width}
        self.memory = Memory.from_config(
            {"vector_store": {"provider": "pgvector", "config": store}}
        )
        self.memory.embedding_model = table

    def add(self, user: str, texts: Sequence[str]) -> None:
        for text in texts:
            self.memory.add(text, user_id=user, infer=False)

    def search(self, user: str, question: str) -> list[str]:
        found = self.memory.search(question, filters={"user_id": user}, top_k=10)
        return [item["memory"] for item in found["results"]]


RIVALS = {
    "LangGraph PostgresStore": LangGraphStore,
    "langchain-postgres PGVectorStore": LangChainPostgres,
    "LlamaIndex PGVectorStore": LlamaIndexPostgres,
    "Mem0 (infer=False)": Mem0,
}


def measured(rival: Rival, table: Table, task: dict[str, Any]) -> dict[str, float]:
    """Fill, then time adds and searches; recall is against an exact scan of the user's rows."""
    users, rows = task["users"], task["rows"]
    batches = [timed(lambda user=user: rival.add(*batch(user, rows))) for user in range(users)]
    new = iter(range(users * rows, len(table.vectors)))
    ones = [timed(lambda: rival.add("user-0", [f"row {next(new)}"])) for _ in range(task["rounds"])]
    searches: list[float] = []
    recalls: list[float] = []
    asked = range(len(table.vectors) - task["rounds"] - WARM_UP, len(table.vectors))
    own = range(rows, 2 * rows)  # of user 1, who got no single ones
    for question in asked:
        start = time.perf_counter()
        found = rival.search("user-1", f"row {question}")
        searches.append((time.perf_counter() - start) * 1000)
        right = np.argsort(-(table.vectors[own.start : own.stop] @ table.vectors[question]))[:10]
        best = {f"row {own.start + place}" for place in right}
        recalls.append(len(best & set(found)) / 10)
    return {
        "add 1 ms": statistics.median(ones[WARM_UP:]),
        "add rows/s": 1000 * rows / statistics.median(batches),
        "search ms": statistics.median(searches[WARM_UP:]),
        "recall@10": statistics.mean(recalls),
    }


def batch(user: int, rows: int) -> tuple[str, list[str]]:
    return f"user-{user}", [f"row {row}" for row in range(user * rows, (user + 1) * rows)]


def timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return (time.perf_counter() - start) * 1000


def addresses(dsn: str) -> dict[str, str]:
    """Return a postgresql:// address as each driver wants it."""
    parts = urlsplit(dsn)
    path = f"{parts.netloc}{parts.path}?{parts.query}"
    return {
        "libpq": f"postgresql://{path}",
        **{
            driver: f"postgresql+{driver}://{path}" for driver in ("psycopg", "psycopg2", "asyncpg")
        },
    }


def results(task: dict[str, Any]) -> Iterator[dict[str, Any]]:
    table = Table(task["vectors"])
    address = addresses(task["dsn"])
    for name, rival in RIVALS.items():
        try:
            made = rival(address, table, table.vectors.shape[1])
            yield {"name": name, **measured(made, table, task)}
        except Exception as error:  # noqa: BLE001 one that does not run is a result too
            yield {"name": name, "error": f"{type(error).__name__}: {error}"[:300]}


if __name__ == "__main__":
    for line in results(json.load(sys.stdin)):
        print(json.dumps(line), flush=True)
