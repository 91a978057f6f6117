"""What a call reads: what fits, what stands, and what its caller may read."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest

from memos_core import AsyncView, Caller, InvalidInput, Kind, MemCube, MemOS, View
from memos_core.errors import ContextTooLong
from memos_core.model import MemoryModel
from tests.model.models import model_of, tokenizer_with
from tests.support import WordEmbedder, until

FACTS = [
    "Ann is allergic to peanuts.",
    "Ann lives in Oslo with a black cat named Misha.",
    "Her bicycle was repaired for 95 euros in May 2026.",
]
ASKED = [{"role": "user", "content": "What must she not eat?"}]


def model_for(view: View | None, folder: Path, **shape: Any) -> MemoryModel:
    return MemoryModel(model_of("llama", **shape), tokenizer_with(), view, folder=folder)


@pytest.fixture
def model(ann: View, tmp_path: Path) -> Iterator[MemoryModel]:
    with model_for(ann, tmp_path) as model:
        yield model


@pytest.fixture
def facts(ann: View) -> list[MemCube]:
    return ann.add(FACTS)


def asked_of(memos: MemOS, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list to which the SQL of each statement of this thread is added from now on."""
    engine, asked = memos.at("acme").engine, list[str]()
    run = engine.run

    def noted(statement: Any, *others: Any) -> Any:
        if threading.current_thread() is threading.main_thread():
            asked.append(statement.sql)
        return run(statement, *others)

    monkeypatch.setattr(engine, "run", noted)
    return asked


# ------------------------------------------------------------------ what fits


def test_a_view_stands_for_the_largest_cache_that_leaves_room(ann: View, tmp_path: Path) -> None:
    facts = ann.add([*FACTS, *(f"{fact} Ann said so twice." for fact in FACTS)])
    with model_for(ann, tmp_path, max_position_embeddings=256) as model:
        small = model.encode(facts[:2], room=0)
        large = model.encode(facts, order="given", room=0)
        sizes = [sum(one.cache.tokens) for one in ann.caches() if one.cache]
        new = 256 - sizes[1] + 1  # one more than leaves room for the larger
        assert sizes[0] < sizes[1]

        def read(new: int, **options: Any) -> list[Any]:
            answer = model.generate(ASKED, memory=ann, max_new_tokens=new, **options)
            return [(read.cube, read.kind) for read in answer.reads]

        cached = [(fact.id, Kind.ACTIVATION) for fact in facts]
        assert read(1, recall=0) == cached
        assert read(new, recall=0) == cached[:2]
        # What is recalled beside it takes room, too.
        for one in range(1, new, 8):
            shown = read(one, recall=2)
            assert shown[:2] == cached[:2]
            assert len(shown) in (4, len(facts))
        with pytest.raises(ContextTooLong):
            model.generate(ASKED, memory=large, max_new_tokens=new)
        assert model.generate(ASKED, memory=small, max_new_tokens=new).cached_tokens > 0


def test_what_is_encoded_leaves_room_for_an_answer_of_the_usual_length(
    ann: View, tmp_path: Path
) -> None:
    facts = ann.add([f"{fact} Number {number}." for number in range(6) for fact in FACTS])
    with model_for(ann, tmp_path, max_position_embeddings=640) as model:
        encoded = 0
        for count in range(1, len(facts)):
            try:
                cache = model.encode(facts[:count], order="given")
            except ContextTooLong:
                break
            encoded += 1
        assert 0 < encoded < len(facts) - 1
        assert model.generate(ASKED, memory=cache).cached_tokens > 0


# ------------------------------------------------------------------ what stands


def test_a_cache_that_ends_while_it_is_chosen_is_not_missed(
    ann: View, model: MemoryModel, facts: list[MemCube], monkeypatch: pytest.MonkeyPatch
) -> None:
    model.encode(facts[:1])
    model.encode(facts[:2], order="given")
    model.encode(facts, order="given")
    caches, ending = View.caches, iter([facts[2], facts[1], facts[0]])

    def and_forgotten(self: View, *of: Any, **options: Any) -> Any:
        found = caches(self, *of, **options)
        self.forget(next(ending).id)
        return found

    monkeypatch.setattr(View, "caches", and_forgotten)
    for left in (facts[:2], facts[:1], []):
        answer = model.generate(ASKED, memory=ann, recall=0, max_new_tokens=1)
        assert [read.cube for read in answer.reads] == [fact.id for fact in left]


def test_a_batch_asks_once(
    memos: MemOS,
    ann: View,
    model: MemoryModel,
    facts: list[MemCube],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cache = model.encode(facts)
    conversations = [[{"role": "user", "content": f"What of {name}?"}] for name in "abcd"]
    asked = asked_of(memos, monkeypatch)
    for memory in (cache, facts, ann):
        model.generate_batch(conversations[:1], memory=memory, recall=0, max_new_tokens=1)
        of_one = list(asked)
        asked.clear()
        answers = model.generate_batch(conversations, memory=memory, recall=0, max_new_tokens=1)
        assert asked == of_one
        asked.clear()
        assert [len(answer.reads) for answer in answers] == [3] * 4


UNSEARCHED: dict[str, Callable[[View, MemCube], object]] = {
    "archived": lambda view, fact: view.archive(fact.id),
    "merged": lambda view, fact: view.fuse([fact.id, view.add("Ann eats no nuts.").id]),
}


@pytest.mark.parametrize("how", UNSEARCHED)
def test_a_view_shows_no_cache_of_what_its_search_leaves_out(
    ann: View, model: MemoryModel, facts: list[MemCube], how: str
) -> None:
    small = model.encode(facts[1:], order="given")
    large = model.encode(facts, order="given")
    UNSEARCHED[how](ann, facts[0])
    answer = model.generate(ASKED, memory=ann, recall=0, max_new_tokens=1)
    assert [read.cube for read in answer.reads] == [fact.id for fact in facts[1:]]
    model.pin(ann)
    model.unpin(ann)
    # Whoever names it means it.
    for named, members in ((large, facts), (small, facts[1:])):
        answer = model.generate(ASKED, memory=named, max_new_tokens=1)
        assert [read.cube for read in answer.reads] == [fact.id for fact in members]
        assert answer.cached_tokens > 0


def test_a_view_shows_no_cache_of_what_is_true_no_more(
    database: str, ann: View, model: MemoryModel
) -> None:
    fact = ann.add(FACTS[0], valid_to=datetime.now(UTC) + timedelta(hours=1))
    model.encode(fact)
    assert model.generate(ASKED, memory=ann, max_new_tokens=1).cached_tokens > 0
    with psycopg.connect(database, autocommit=True) as admin:
        admin.execute("UPDATE memos.cube SET valid_to = now() WHERE kind = 'plaintext'")
    answer = model.generate(ASKED, memory=ann, max_new_tokens=1)
    assert (answer.cached_tokens, answer.reads) == (0, ())
    assert len(ann.caches()) == 1


def test_what_is_asked_for_does_not_grow_with_caches_of_other_openings(
    ann: View, model: MemoryModel, facts: list[MemCube], monkeypatch: pytest.MonkeyPatch
) -> None:
    for text in ("Be brief.", "Be kind.", "Be exact."):
        model.encode(facts[:2], system=text)
    caches, read = View.caches, list[int]()

    def counted(self: View, *of: Any, **options: Any) -> Any:
        found = caches(self, *of, **options)
        read.append(len(found))
        return found

    monkeypatch.setattr(View, "caches", counted)
    model.encode(facts[2:])
    assert read == [0]
    model.generate(ASKED, memory=ann, recall=0, max_new_tokens=1)
    assert read == [0, 1]


# ------------------------------------------------------------------ what is another's


def test_databases_that_share_a_folder_know_nothing_of_each_other(
    new_database: Callable[..., str], tmp_path: Path
) -> None:
    with (
        MemOS.open(new_database(), embedder=WordEmbedder()) as one,
        MemOS.open(new_database(), embedder=WordEmbedder()) as other,
    ):
        assert one.at("acme").engine.database != other.at("acme").engine.database
        with (
            model_for(one.at("acme", "ann"), tmp_path) as model,
            model_for(other.at("acme", "ann"), tmp_path) as theirs,
        ):
            kept = one.at("acme", "ann").add(FACTS)
            cache = model.encode(kept)
            facts = other.at("acme", "ann").add(FACTS)
            assert theirs.generate(ASKED, memory=facts, max_new_tokens=1).cached_tokens == 0
            theirs.encode(facts)
            assert theirs.stats().disk.caches == 2
            for fact in facts:
                other.at("acme", "ann").forget(fact.id)
            until(lambda: theirs.stats().memory.caches == 0)
            until(lambda: theirs.stats().disk.caches == 1)
        with model_for(one.at("acme", "ann"), tmp_path) as fresh:
            assert fresh.generate(ASKED, memory=cache, max_new_tokens=1).cached_tokens > 0


def test_a_guess_of_what_another_caller_keeps_is_answered_as_if_he_kept_nothing(
    memos: MemOS, tmp_path: Path
) -> None:
    mine, his = (memos.at("acme", "x", caller=Caller(user=user)) for user in ("ann", "bob"))
    with model_for(mine, tmp_path) as model, model_for(his, tmp_path) as other:
        facts = mine.add(FACTS)
        cache = model.encode(facts, order="given")
        assert model.generate(ASKED, memory=facts, max_new_tokens=1).cached_tokens > 0
        guesses = his.add(FACTS)
        for text_alone in (guesses, guesses[:1]):
            answer = other.generate(ASKED, memory=text_alone, max_new_tokens=1)
            assert answer.cached_tokens == 0
            assert {read.kind for read in answer.reads} == {Kind.PLAINTEXT}
            assert other.prefetch(text_alone) is None
            with pytest.raises(InvalidInput, match="encode it first"):
                other.pin(text_alone)
        mine.grant(user="bob")
        for memory in (guesses, cache, [cache, guesses[0]]):
            assert other.generate(ASKED, memory=memory, max_new_tokens=1).cached_tokens > 0
        mine.revoke(user="bob")
        own = other.encode(guesses[:2], order="given")
        answer = other.generate(ASKED, memory=[own, guesses[2]], max_new_tokens=1)
        kinds = [read.kind for read in answer.reads]
        assert kinds == [Kind.ACTIVATION, Kind.ACTIVATION, Kind.PLAINTEXT]


def test_what_the_application_cached_serves_every_caller(memos: MemOS, tmp_path: Path) -> None:
    ours, his = memos.at("acme"), memos.at("acme", caller=Caller(user="bob"))
    with model_for(ours, tmp_path) as model, model_for(his, tmp_path) as other:
        facts = ours.add(FACTS)
        model.encode(facts, order="given")
        assert other.generate(ASKED, memory=facts, max_new_tokens=1).cached_tokens > 0


# ------------------------------------------------------------------ what is no memory


@pytest.mark.parametrize("memory", [5, object(), {}])
def test_what_is_no_memory_is_refused(model: MemoryModel, memory: Any) -> None:
    for verb in (model.encode, model.prefetch, model.pin):
        with pytest.raises(InvalidInput, match="memory is cubes, their ids, or a view, not"):
            verb(memory)
    with pytest.raises(InvalidInput, match="memory is cubes, their ids, or a view, not"):
        model.generate(ASKED, memory=memory)


@pytest.mark.parametrize("recall", [-1, "5", True, 1.0, None])
def test_what_is_no_number_to_recall_is_refused(ann: View, model: MemoryModel, recall: Any) -> None:
    with pytest.raises(InvalidInput, match="recall is a number of memories"):
        model.generate(ASKED, memory=ann, recall=recall)


def test_an_awaited_view_is_told_apart(ann: View, model: MemoryModel, tmp_path: Path) -> None:
    awaited: Any = AsyncView(ann)
    with pytest.raises(InvalidInput, match=r"AsyncView.*pass its \.blocking"):
        model.generate(ASKED, memory=awaited)
    with pytest.raises(InvalidInput, match=r"AsyncView.*pass its \.blocking"):
        model_for(awaited, tmp_path)
    with pytest.raises(InvalidInput):
        model.encode(None)  # pyright: ignore[reportArgumentType]
