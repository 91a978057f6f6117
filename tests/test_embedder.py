"""Embedders: the default one with its real weights, prefixes, and answers that are refused."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer

from memos_core import EmbedderMismatch, EmbedderUnavailable, InvalidInput, InvalidVector, MemOS
from memos_core.embedder import document_vectors, question_vectors
from memos_core.model import embedder
from memos_core.model.default import DEFAULT_MODEL, LazyEmbedder, default_embedder
from memos_core.model.embedder import SentenceTransformerEmbedder, packaged_model
from tests.support import WordEmbedder


@pytest.fixture(scope="module")
def minilm() -> SentenceTransformerEmbedder:
    return SentenceTransformerEmbedder()


def test_the_default_knows_what_texts_mean(minilm: SentenceTransformerEmbedder) -> None:
    vectors = document_vectors(minilm, ["A cat sleeps.", "A kitten naps.", "Taxes are due."])
    assert vectors.shape == (3, 384)
    assert vectors.dtype == np.float32
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1, abs=1e-5)
    assert vectors[0] @ vectors[1] > 0.5 > vectors[0] @ vectors[2]


def test_a_memory_opens_with_it(database: str) -> None:
    with MemOS.open(database) as memos:
        memos.add(["Ann is allergic to peanuts.", "Ann was born in Rome.", "Ann has a cat."])
        assert memos.search("What must she not eat?")[0].text == "Ann is allergic to peanuts."
        counted = memos.stats()
        assert (counted.embedder, counted.width) == (DEFAULT_MODEL, 384)


def test_it_is_loaded_with_the_first_text() -> None:
    loaded: list[str] = []

    def load() -> WordEmbedder:
        loaded.append("words")
        return WordEmbedder()

    lazy = LazyEmbedder("words", load)
    assert loaded == []
    assert lazy.embed(["a"]).shape == lazy.embed_queries(["a"]).shape == (1, 64)
    assert loaded == ["words"]
    assert default_embedder().name == DEFAULT_MODEL


def test_altered_weights_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = tmp_path / "model"
    shutil.copytree(packaged_model(), copy)
    with (copy / "model.safetensors").open("r+b") as weights:
        weights.seek(1_000_000)
        weights.write(b"!")

    class Package:
        get_model_path = staticmethod(lambda: str(copy))

    monkeypatch.setattr(embedder, "import_module", lambda _name: Package)
    with pytest.raises(EmbedderUnavailable, match="not the published"):
        packaged_model()


def test_without_the_extra_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise ImportError(name=name)

    monkeypatch.setattr(embedder, "import_module", missing)
    monkeypatch.setattr(embedder, "try_to_load_from_cache", lambda *_args: None)
    with pytest.raises(EmbedderUnavailable, match=r"pip install 'memos-memory\[embedded\]'"):
        SentenceTransformerEmbedder()
    monkeypatch.setitem(sys.modules, "memos_core.model.embedder", None)  # as if it had no library
    with pytest.raises(EmbedderUnavailable, match="pass embedder="):
        default_embedder().embed(["a"])


def test_the_hub_s_cache_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = packaged_model()
    cached = {str(path.relative_to(folder)): str(path) for path in folder.rglob("*")}
    monkeypatch.setattr(embedder, "try_to_load_from_cache", lambda _model, name: cached.get(name))
    assert tmp_path.exists()
    monkeypatch.setattr(embedder, "packaged_model", lambda: pytest.fail("the cache has it"))
    assert SentenceTransformerEmbedder().embed(["a"]).shape == (1, 384)
    del cached["tokenizer.json"]
    with pytest.raises(pytest.fail.Exception):
        SentenceTransformerEmbedder()


def test_prefixes_go_before_texts(minilm: SentenceTransformerEmbedder) -> None:
    e5 = SentenceTransformerEmbedder(query_prefix="query: ", document_prefix="passage: ")
    plain = minilm.embed(["query: tea", "passage: tea"])
    np.testing.assert_allclose(question_vectors(e5, ["tea"])[0], plain[0], atol=1e-5)
    np.testing.assert_allclose(document_vectors(e5, ["tea"])[0], plain[1], atol=1e-5)
    assert e5.name != minilm.name, "the vectors are others, so the database must tell them apart"


def test_an_embedder_is_known_by_its_whole_name() -> None:
    e5 = SentenceTransformerEmbedder(query_prefix="query: ", document_prefix="a&b=c?d ")
    again = SentenceTransformerEmbedder.named(e5.name)
    assert again.name == e5.name
    np.testing.assert_array_equal(again.embed_queries(["tea"]), e5.embed_queries(["tea"]))
    assert SentenceTransformerEmbedder.named(DEFAULT_MODEL).name == DEFAULT_MODEL


def test_who_names_no_embedder_gets_the_database_s(database: str) -> None:
    e5 = SentenceTransformerEmbedder(query_prefix="query: ")
    with MemOS.open(database, embedder=e5) as memos:
        memos.add(["Ann is allergic to peanuts.", "Ann was born in Rome."])
    with MemOS.open(database) as memos:
        assert memos.engine.model == e5.name
        assert memos.search("What must she not eat?")[0].text == "Ann is allergic to peanuts."


def test_what_needs_no_vectors_needs_no_embedder(database: str, tmp_path: Path) -> None:
    with MemOS.open(database, embedder=WordEmbedder(str(tmp_path))) as memos:
        cube = memos.add("tea")
    with MemOS.open(database) as memos:
        assert memos.stats().cubes == 1
        assert memos.get(cube.id).text == "tea"
        with pytest.raises(EmbedderUnavailable, match="the one that filled the database"):
            memos.search("tea")
        memos.forget(cube.id)


def test_asking_an_empty_database_claims_nothing(database: str) -> None:
    with MemOS.open(database, embedder=WordEmbedder()) as memos:
        assert memos.search("tea") == []
    with MemOS.open(database, embedder=WordEmbedder("others", width=16)) as memos:
        memos.add("tea")
        assert memos.search("tea")[0].text == "tea"


def test_a_loaded_model_needs_a_name() -> None:
    model = SentenceTransformer(str(packaged_model()))
    with pytest.raises(InvalidInput, match="pass name="):
        SentenceTransformerEmbedder(model)
    assert SentenceTransformerEmbedder(model, name="mine").name == "mine"


def test_a_model_that_is_nowhere(tmp_path: Path) -> None:
    with pytest.raises(EmbedderUnavailable, match="cannot be loaded"):
        SentenceTransformerEmbedder(str(tmp_path))


# --- embedders of the user's own ------------------------------------------------------------------


class Marking:
    """Embeds questions otherwise, and has no name."""

    def embed(self, texts: Sequence[str]) -> Any:
        return [[1.0, 0.0]] * len(texts)

    def embed_queries(self, texts: Sequence[str]) -> Any:
        return [[0.6, 0.8]] * len(texts)


def test_questions_are_embedded_as_such(database: str) -> None:
    with MemOS.open(database, embedder=Marking()) as memos:
        memos.add("tea")
        assert memos.search("cake")[0].reasons["dense"] == pytest.approx(0.4 * 0.6, abs=1e-3)
        assert memos.stats().embedder == "Marking"


class Answering:
    """Answers what it is told to."""

    name = "answering"

    def __init__(self, answer: Callable[[int], Any]) -> None:
        self._answer = answer

    def embed(self, texts: Sequence[str]) -> Any:
        return self._answer(len(texts))


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (lambda n: np.full((n, 3), np.nan), "NaN"),
        (lambda n: np.full((n, 3), np.inf), "infinity"),
        (lambda n: np.zeros((n, 3)), "zero vector"),
        (lambda n: np.ones((n + 1, 3)), "shape"),
        (lambda n: np.ones((n, 0)), "shape"),
        (lambda n: np.ones((n, 3, 1)), "shape"),
        (lambda _n: np.ones(3), "shape"),
        (lambda _n: [[1, 2], [3]], "no array of numbers"),
        (lambda n: ["text"] * n, "no array of numbers"),
        (lambda _n: None, "answering"),
    ],
)
def test_vectors_that_cannot_be_compared_are_refused(
    database: str, answer: Callable[[int], Any], error: str
) -> None:
    with MemOS.open(database, embedder=Answering(answer)) as memos:
        for verb in (lambda: memos.add(["one", "two"]), lambda: memos.search("one")):
            with pytest.raises(InvalidVector, match=error):
                verb()
        with pytest.raises(InvalidVector):
            memos.ingest("one")
        assert memos.stats().cubes == 0
        assert memos.stats().embedder is None
        assert [message.content for message in memos.messages()] == ["one"], "nothing said is lost"


def test_any_length_and_width_of_vectors(database: str, new_database: Callable[..., str]) -> None:
    with MemOS.open(database, embedder=Answering(lambda n: np.full((n, 4096), 1e30))) as memos:
        memos.add("as wide as the widest models")
        assert memos.search("?")[0].reasons["dense"] == pytest.approx(0.4, abs=1e-3)
    other = new_database()
    with MemOS.open(other, embedder=Answering(lambda n: np.full((n, 1), 1e-30))) as memos:
        memos.add("one dimension")
        assert memos.search("?")[0].reasons["dense"] == pytest.approx(0.4, abs=1e-3)


def test_another_model_is_refused(database: str) -> None:
    with MemOS.open(database, embedder=WordEmbedder()) as memos:
        memos.add("tea")
    with pytest.raises(
        EmbedderMismatch, match=r"by 'words' \(64 dimensions\), not by others.*memos reembed"
    ):
        MemOS.open(database, embedder=WordEmbedder("others"))
    with MemOS.open(database, embedder=WordEmbedder(width=32)) as memos:
        for verb in (lambda: memos.add("cake"), lambda: memos.search("tea")):
            with pytest.raises(EmbedderMismatch, match=r"'words' \(64 dimensions\).*'words' \(32"):
                verb()
        assert memos.stats().cubes == 1
