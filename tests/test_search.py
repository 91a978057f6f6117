"""What a search finds, in which order, and what a hit says; through both faces."""

from __future__ import annotations

import random
from datetime import UTC, datetime

import numpy as np
import pytest

from memos_core import InvalidInput, InvalidText, Kind, MemOS, Settings, View, Weights
from memos_core.embedder import document_vectors
from tests.support import WordEmbedder

WORDS = [f"word{number}" for number in range(40)]


def found(hits: list) -> list[str]:
    return [hit.text for hit in hits]


def test_a_hit_says_why_it_was_chosen(view: View) -> None:
    view.add(["Ann drinks green tea.", "Bob plays chess.", "Tea is grown in Assam."])
    hits = view.search("Who drinks tea?")
    assert found(hits)[0] == "Ann drinks green tea."
    assert [hit.dense_rank for hit in hits] == [1, 2, 3]
    assert [hit.lexical_rank for hit in hits] == [1, 2, None]
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    for hit in hits:
        assert hit.score == pytest.approx(sum(hit.reasons.values()))
        assert hit.text == hit.cube.text
        assert hit.cube.usage is None
    assert "lexical" in hits[1].reasons
    assert "lexical" not in hits[2].reasons


def test_nothing_is_found_in_an_empty_memory(view: View) -> None:
    assert view.search("anything") == []


def test_every_order_is_total_and_pages_do_not_overlap(view: View) -> None:
    view.add([f"tea number {number}" for number in range(7)] + ["tea"] * 6)
    everything = view.search("tea", k=100)
    assert len(everything) == 13
    pages = [view.search("tea", k=5, offset=offset) for offset in (0, 5, 10, 15)]
    assert [len(page) for page in pages] == [5, 5, 3, 0]
    assert [hit.cube.id for page in pages for hit in page] == [hit.cube.id for hit in everything]
    assert view.search("tea", k=0) == []


def test_a_least_score_cuts_the_tail(view: View) -> None:
    view.add(["green tea", "chess"])
    scores = [hit.score for hit in view.search("green tea")]
    assert found(view.search("green tea", min_score=sum(scores) / 2)) == ["green tea"]
    assert view.search("green tea", min_score=1.5) == []


@pytest.mark.parametrize("mode", ["hybrid", "dense", "lexical"])
@pytest.mark.parametrize("question", ["green tea", "who is it?"])
def test_a_least_score_holds_in_every_mode(view: View, mode: str, question: str) -> None:
    view.add(["green tea", "tea", "chess", "who is it"])
    scores = [hit.score for hit in view.search(question, mode=mode)]
    for least in (*scores, 0.99):
        found = [hit.score for hit in view.search(question, mode=mode, min_score=least - 1e-9)]
        assert found == [score for score in scores if score >= least - 1e-9]


def test_a_question_of_stop_words_has_context_and_speakers_too(view: View) -> None:
    view.ingest([{"role": "user", "name": name, "content": "It is me."} for name in ("Will", "Al")])
    (hit, other) = view.search("Who is Will?")
    assert hit.cube.provenance.speaker == "Will"
    assert set(hit.reasons) == {"dense", "dense_context", "speaker"}
    assert "speaker" not in other.reasons


def test_ranks_by_cosine_exactly(memos: MemOS) -> None:
    rng = random.Random(7)
    texts = [" ".join(rng.choices(WORDS, k=8)) for _ in range(300)]
    view = memos.at("acme")
    view.add(texts)
    question = "word1 word2 word3"
    vectors = document_vectors(WordEmbedder(), texts)
    (asked,) = document_vectors(WordEmbedder(), [question])
    cosine = vectors @ asked
    hits = view.search(question, k=300)
    dense = {hit.text: hit.reasons["dense"] for hit in hits}
    for text, value in zip(texts, cosine, strict=True):
        assert dense[text] == pytest.approx(0.4 * value, abs=2e-3), "halves have 11 bits"
    by_rank = [hit.text for hit in sorted(hits, key=lambda hit: hit.dense_rank)]
    best = [texts[place] for place in np.argsort(-cosine)[:10]]
    assert min(cosine[texts.index(text)] for text in by_rank[:10]) == pytest.approx(
        cosine[texts.index(best[-1])], abs=2e-3
    )


def test_ranks_words_by_bm25(memos: MemOS) -> None:
    """The lexical score is Robertson & Zaragoza's formula, computed here by hand.

    Repetitions alone saturate as in a text of mean length.
    """
    texts = ["red red fox", "red fox over hill and valley", "blue bird", "grey bird"]
    view = memos.at("acme")
    view.add(texts)
    question = ["red", "fox", "bird", "unicorn"]
    # Neither "over" nor "and": they are stop words.
    documents = [
        ["red", "red", "fox"],
        ["red", "fox", "hill", "valley"],
        ["blue", "bird"],
        ["grey", "bird"],
    ]
    mean = sum(map(len, documents)) / len(documents)

    def idf(word: str) -> float:
        containing = sum(word in document for document in documents)
        return float(np.log(1 + (len(documents) - containing + 0.5) / (containing + 0.5)))

    def bm25(document: list[str]) -> float:
        return sum(
            idf(word)
            * (2.2 * document.count(word) / (document.count(word) + 1.2))
            / (1 + 1.2 * (0.25 + 0.75 * len(document) / mean))
            for word in question
        ) / sum(map(idf, question))

    hits = {hit.text: hit for hit in view.search(" ".join(question))}
    for text, document in zip(texts, documents, strict=True):
        assert hits[text].reasons["lexical"] == pytest.approx(0.2 * bm25(document), rel=1e-5)


@pytest.mark.parametrize("count", [6, 7, 24, 25, 37, 48])
def test_every_word_of_a_long_question_counts(memos: MemOS, count: int) -> None:
    """Words are looked up six at a time, in masks of 24: none may fall between two."""
    words = [f"w{number}" for number in range(count)]
    rng = random.Random(count)
    documents = [rng.sample(words, rng.randint(1, count)) for _ in range(40)] + [["x"]]
    view = memos.at("acme")
    view.add([" ".join(document) for document in documents])
    mean = sum(map(len, documents)) / len(documents)
    idf = {}
    for word in words:
        containing = sum(word in document for document in documents)
        idf[word] = np.log(1 + (len(documents) - containing + 0.5) / (containing + 0.5))
    hits = {hit.text: hit for hit in view.search(" ".join(words), k=100, mode="lexical")}
    for document in documents[:-1]:
        share = sum(idf[word] for word in document) / sum(idf.values())
        expected = 0.2 * share / (1 + 1.2 * (0.25 + 0.75 * len(document) / mean))
        assert hits[" ".join(document)].reasons["lexical"] == pytest.approx(expected, rel=1e-5)
    assert hits["x"].reasons == {}


def test_rare_words_count_more_than_frequent_ones(memos: MemOS) -> None:
    view = memos.at("acme")
    view.add([f"the meeting was on day {number}" for number in range(30)])
    view.add("the okapi was there")
    hits = view.search("meeting okapi")
    assert hits[0].text == "the okapi was there"
    assert hits[0].lexical_rank == 1


def test_word_frequencies_follow_updates_and_forgetting(view: View) -> None:
    cubes = view.add(["okapi one", "okapi two", "zebra three"])
    view.update(cubes[0].id, "zebra one")
    view.forget(cubes[1].id)
    hits = {hit.text: hit for hit in view.search("okapi")}
    assert all(hit.lexical_rank is None for hit in hits.values()), "no okapi is left"
    assert all("lexical" not in hit.reasons for hit in hits.values())
    assert view.search("zebra")[0].reasons["lexical"] > 0


@pytest.mark.parametrize(
    ("text", "question"),
    [
        ("She was moving houses.", "moved house"),
        ("Der Zug fährt nach Köln.", "köln"),
        ("Поезд идёт в Москву.", "МОСКВУ"),
        ("الطريق إلى القاهرة طويل", "القاهرة"),
        ("東京都に引っ越しました。", "京都"),
        ("我昨天搬到了北京。", "北京"),
        ("서울에서 살고 있어요", "서울"),
        ("ฉันอาศัยอยู่ในกรุงเทพ", "กรุงเทพ"),
        ("दिल्ली में बारिश हो रही है", "बारिश"),
        ("\uff2f\uff33\uff2c\uff2f \ufb01ne", "oslo fine"),
        ("mail ann.lee@x.org now", "ann.lee@x.org"),
    ],
)
def test_words_of_any_script_are_found(view: View, text: str, question: str) -> None:
    view.add(["something else entirely", text, "無関係な文章です", "ещё одна строка"])
    best = min(view.search(question), key=lambda hit: hit.lexical_rank or 99)
    assert best.text == text
    assert best.lexical_rank == 1


@pytest.mark.parametrize(
    "question",
    [
        "the of and",
        "?",
        "!!! ***",
        "a & | ! b:* <-> (",
        "' OR 1=1 --",
        '"quoted phrase" -not',
        "🦜",
    ],
)
def test_a_question_need_not_hold_words(view: View, question: str) -> None:
    view.add("Ann drinks tea.")
    (hit,) = view.search(question)
    assert hit.lexical_rank is None
    assert set(hit.reasons) == {"dense"}


@pytest.mark.parametrize(
    ("question", "best"),
    [
        ('"green tea"', "I like green tea."),
        ("a “GREEN tea”", "I like green tea."),
        ("pean*", "Peanuts are bad for me."),
        ("'a & | !b' \"bad for me\"", "Peanuts are bad for me."),
        ('"c++ (2.0)"', "Now in C++ (2.0)."),
        ('"%(k)s"', "Not %(k)s but that."),
    ],
)
def test_a_phrase_or_a_prefix_ranks_what_holds_it(view: View, question: str, best: str) -> None:
    view.add(["Tea, if it is green.", "Green pea soup, no tea.", "Nothing of it."])
    view.add(
        ["I like green tea.", "Peanuts are bad for me.", "Now in C++ (2.0).", "Not %(k)s but that."]
    )
    hits = view.search(question, mode="lexical")
    assert hits[0].text == best
    assert len(hits) == 7, "it ranks and does not filter"


def test_modes_ask_one_signal_alone(view: View) -> None:
    view.add(["red fox", "blue bird"])
    (fox, bird) = view.search("fox", mode="dense")
    assert fox.score == fox.reasons["dense"] == pytest.approx(2**-0.5, abs=0.01)
    assert (fox.dense_rank, bird.dense_rank) == (1, 2)
    hits = view.search("bird", mode="lexical")
    assert found(hits) == ["blue bird", "red fox"]
    assert [hit.dense_rank for hit in hits] == [None, None]
    assert all("dense" not in hit.reasons for hit in hits)
    assert view.search("the of", mode="lexical") == []


@pytest.mark.parametrize("mode", ["hybrid", "dense"])
def test_a_question_is_embedded_as_a_statement(database: str, mode: str) -> None:
    asked: list[str] = []

    class Listening(WordEmbedder):
        def embed_queries(self, texts: list[str]) -> np.ndarray:
            asked.extend(texts)
            return self.embed(texts)

    with MemOS.open(database, embedder=Listening()) as memos:
        memos.ingest([{"role": "user", "name": "Ann", "content": "I moved house."}])
        memos.search("When did Ann move house?", mode=mode)
        with pytest.raises(InvalidInput, match="k must be"):
            memos.search("Why?", k=-1, mode=mode)
    assert asked == ["I move house"], "and nothing for what is refused"


def test_weights_are_the_user_s(database: str) -> None:
    weights = Weights(dense=0.5, dense_context=0, lexical=0.5, lexical_context=0)
    settings = Settings(weights=weights)
    with MemOS.open(database, embedder=WordEmbedder(), settings=settings) as memos:
        view = memos.at("acme")
        view.add(["red fox", "blue bird"])
        (fox, _) = view.search("fox")
        assert fox.reasons["dense"] == pytest.approx(0.5 * 2**-0.5, abs=0.01)
        assert set(fox.reasons) == {"dense", "lexical"}
    with pytest.raises(InvalidInput, match="weight dense must be a finite number"):
        Weights(dense=float("nan"))


def test_to_search_by_words_alone_embeds_nothing(database: str) -> None:
    class Once(WordEmbedder):
        def embed(self, texts: list[str]) -> np.ndarray:
            assert texts == ["tea"]
            return super().embed(texts)

    with MemOS.open(database, embedder=Once()) as memos:
        memos.at("acme").add("tea")
        assert found(memos.at("acme").search("cake or tea", mode="lexical")) == ["tea"]


# --- filters that are no metadata -----------------------------------------------------------------


def test_filters_on_the_header(view: View) -> None:
    view.add("tea one", tags=["a", "b"], semantic_type="preference")
    view.add("tea two", tags=["b"])
    view.add("tea three", tags=["c"])
    assert set(found(view.search("tea", tags=["b"]))) == {"tea one", "tea two"}
    assert found(view.search("tea", tags=["b", "a"])) == ["tea one"]
    assert found(view.search("tea", semantic_type="preference")) == ["tea one"]
    assert len(view.search("tea", kinds=[Kind.PLAINTEXT])) == 3
    assert len(view.search("tea", kinds=["plaintext", "parametric"])) == 3
    assert view.search("tea", kinds=["activation"]) == []
    assert view.search("tea", kinds=[]) == []
    assert len(view.search("tea", tags=[])) == 3


def test_filters_do_not_change_scores(view: View) -> None:
    """Word frequencies are the namespace's, whatever is asked for in it."""
    view.add(["tea in Oslo", "tea in Rome"], tags=["city"])
    view.add(["tea", "milk", "bread"])
    whole = {hit.text: hit.score for hit in view.search("tea in Oslo")}
    some = {hit.text: hit.score for hit in view.search("tea in Oslo", tags=["city"])}
    assert some == {text: whole[text] for text in some}


def test_messages_in_view_can_be_left_out(view: View) -> None:
    view.ingest([{"id": f"m{n}", "role": "user", "content": f"tea {n}"} for n in range(3)])
    view.add("tea again")
    assert set(found(view.search("tea", exclude_messages=["m0", "m2"]))) == {"tea 1", "tea again"}


def test_a_fusion_is_left_out_with_all_that_it_came_from(view: View) -> None:
    said = [{"id": f"m{n}", "role": "user", "content": f"tea {n}"} for n in range(2)]
    one, two = view.ingest(said)
    fused = view.fuse([one.id, two.id])
    summary = view.derive("tea, twice", fused.id)
    noted = view.derive("tea, noted", [two.id, view.add("nobody said tea").id])
    both = {fused.text, summary.text}
    assert both <= set(found(view.search("tea", exclude_messages=["m0"])))
    left = set(found(view.search("tea", exclude_messages=["m0", "m1"])))
    assert not both & left
    assert noted.text in left, "it says what was not said, too"


# --- conversations --------------------------------------------------------------------------------


def conversation() -> list[dict[str, object]]:
    lines = ["Hello.", "Hi Bob!", "I moved to Oslo.", "How is it?", "Cold.", "Bye."]
    return [
        {
            "id": f"m{place}",
            "role": "user",
            "name": ("Ann", "Bob")[place % 2],
            "content": line,
            "created_at": datetime(2026, 3, 1, 12, place, tzinfo=UTC),
        }
        for place, line in enumerate(lines)
    ]


def test_a_turn_is_found_by_what_was_said_around_it(view: View) -> None:
    view.ingest(conversation(), session="monday")
    view.ingest(["Cold.", "Warm."], session="tuesday")
    hits = view.search("Oslo cold", mode="lexical")
    texts = found(hits)
    assert texts.index("How is it?") < texts.index("Hello."), "both neighbours have a word of it"
    (asked,) = [hit for hit in hits if hit.text == "How is it?"]
    assert set(asked.reasons) == {"lexical_context"}
    assert asked.lexical_rank is None
    (other,) = [hit for hit in hits if hit.text == "Warm."]
    best = max(hit.reasons["lexical_context"] for hit in hits)
    assert other.reasons["lexical_context"] < best, "no context reaches into another session"


def test_context_follows_forgetting_and_later_turns(view: View) -> None:
    lines = conversation()
    cubes = view.ingest(lines[:3], session="monday")
    assert not any(hit.reasons for hit in view.search("cold", mode="lexical"))
    view.ingest(lines[3:], session="monday")
    near = {hit.text for hit in view.search("cold", mode="lexical") if hit.reasons}
    assert near == {"I moved to Oslo.", "How is it?", "Cold.", "Bye."}
    view.forget(cubes[2].id)
    near = {hit.text for hit in view.search("Oslo", mode="lexical") if hit.reasons}
    assert near == set(), "nothing of what was forgotten stays with its neighbours"


def test_context_reaches_two_turns_both_ways(view: View) -> None:
    lines = ["One.", "Two.", "Three.", "Okapi.", "Five.", "Six.", "Seven."]
    view.ingest(lines, session="monday")
    near = {hit.text for hit in view.search("okapi", mode="lexical") if hit.reasons}
    assert near == set(lines[1:6])


def test_a_long_neighbour_is_no_context(view: View) -> None:
    essay = "okapi " + " ".join(f"w{number}" for number in range(80))
    view.ingest(["What is it?", essay, "Thanks!"], session="monday")
    assert {hit.text for hit in view.search("okapi", mode="lexical") if hit.reasons} == {essay}


def test_whom_the_question_names_is_preferred(view: View) -> None:
    for name in ("Ann", "Bob"):
        view.ingest([{"role": "user", "name": name, "content": "I have a cat."}], session=name)
    (first, second) = view.search("Which pet does Bob have?")
    assert first.cube.provenance.speaker == "Bob"
    assert first.reasons["speaker"] == pytest.approx(0.05)
    assert "speaker" not in second.reasons


def test_names_are_known_as_soon_as_they_speak(view: View) -> None:
    view.add("tea")
    view.search("Does Zoe drink tea?")
    view.ingest([{"role": "user", "name": "Zoe", "content": "I drink tea."}])
    best = view.search("Does Zoe drink tea?")[0]
    assert best.reasons["speaker"] == pytest.approx(0.05)


def test_a_view_of_many_namespaces_knows_all_their_speakers(memos: MemOS) -> None:
    for number in range(120):
        turn = {"role": "user", "name": "Bot", "content": "tea"}
        memos.at("acme", f"u{number}").ingest([turn])
    memos.at("acme", "u999").ingest([{"role": "user", "name": "Zoe", "content": "tea"}])
    best = memos.at("acme").search("Does Zoe drink tea?", k=1)[0]
    assert best.reasons["speaker"] == pytest.approx(0.05)


def test_forgotten_speakers_are_unknown_at_once(memos: MemOS) -> None:
    ann = memos.at("acme", "ann")
    (cube,) = ann.ingest([{"role": "user", "name": "Zoe", "content": "I drink tea."}])
    for view in (memos.at("acme"), ann):
        view.search("Zoe?")
    ann.forget(cube.id)
    for view in (memos.at("acme"), ann):
        assert view.engine.speakers(view._scope) == frozenset()  # noqa: SLF001 it has no other face


def test_what_people_said_is_preferred_to_what_assistants_said(view: View) -> None:
    view.ingest([{"role": role, "content": "A cat."} for role in ("assistant", "user")])
    (first, second) = view.search("cat")
    assert first.cube.provenance.role == "user"
    assert second.reasons["assistant"] == pytest.approx(-0.05)
    assert second.score == pytest.approx(sum(second.reasons.values()))


def test_a_hit_names_its_turn(view: View) -> None:
    view.ingest(conversation(), session="monday")
    hit = view.search("Who moved to Oslo?")[0]
    assert hit.message_ids == ("m2",)
    origin = hit.cube.provenance
    assert (origin.speaker, origin.role, origin.session) == ("Ann", "user", "monday")
    assert origin.said_at == datetime(2026, 3, 1, 12, 2, tzinfo=UTC)
    assert hit.context == ()


@pytest.mark.parametrize(
    ("question", "context", "expected"),
    [
        ("I moved to Oslo", 1, ["m1", "m2", "m3"]),
        ("I moved to Oslo", 9, ["m0", "m1", "m2", "m3", "m4", "m5"]),
        ("Hello", 1, ["m0", "m1"]),
        ("Bye", 2, ["m3", "m4", "m5"]),
    ],
)
def test_neighbouring_turns_on_request(
    view: View, question: str, context: int, expected: list[str]
) -> None:
    view.ingest(conversation(), session="monday")
    view.ingest([{"id": "other", "role": "user", "content": "Elsewhere."}], session="tuesday")
    hit = view.search(question, context=context)[0]
    assert [turn.id for turn in hit.context] == expected
    assert hit.context[0].content


def test_neighbours_are_of_the_same_session(view: View) -> None:
    lines = conversation()
    view.ingest(lines[:3], session="monday")
    view.ingest(lines[3:], session="tuesday")
    hit = view.search("I moved to Oslo", context=2)[0]
    assert [turn.id for turn in hit.context] == ["m0", "m1", "m2"]
    lone = view.add("Oslo is in Norway.")
    (other,) = [hit for hit in view.search("Norway", context=2) if hit.cube.id == lone.id]
    assert other.context == ()


def test_forgotten_turns_are_no_neighbours(view: View) -> None:
    cubes = view.ingest(conversation(), session="monday")
    view.forget(cubes[1].id)
    hit = view.search("I moved to Oslo", context=2)[0]
    assert [turn.id for turn in hit.context] == ["m0", "m2", "m3", "m4"]


def test_of_a_very_long_question_both_ends_are_asked(view: View) -> None:
    view.add(["okapi", "zebra", "lion"])
    hits = {hit.text: hit for hit in view.search(f"okapi {'filler ' * 9_000} zebra")}
    assert hits["okapi"].lexical_rank
    assert hits["zebra"].lexical_rank
    assert hits["lion"].lexical_rank is None


# --- bad input ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"k": -1}, "k must be"),
        ({"k": 10**6}, "k must be"),
        ({"k": True}, "k must be"),
        ({"k": 2.5}, "k must be"),
        ({"offset": -1}, "offset must be"),
        ({"min_score": float("nan")}, "min_score"),
        ({"min_score": "high"}, "min_score"),
        ({"context": -1}, "context must be"),
        ({"kinds": ["memory"]}, "unknown kind 'memory'; known: plaintext"),
        ({"kinds": "plaintext"}, r"use \['plaintext'\]"),
        ({"kinds": 5}, "list of strings"),
        ({"tags": 5}, "list of strings"),
        ({"exclude_messages": 5}, "list of strings"),
        ({"tags": "health"}, r"use \['health'\]"),
        ({"tags": [7]}, "tag must be"),
        ({"tags": ["a\x00"]}, "NUL"),
        ({"semantic_type": 7}, "semantic_type"),
        ({"as_of": "yesterday"}, "ISO 8601"),
        ({"valid_at": 7}, "datetime"),
        ({"mode": "fuzzy"}, "mode is one of hybrid, dense, lexical"),
    ],
)
def test_refuses_options_that_make_no_sense(
    view: View, options: dict[str, object], error: str
) -> None:
    with pytest.raises(InvalidInput, match=error):
        view.search("tea", **options)


@pytest.mark.parametrize(
    ("question", "error"),
    [
        ("", "empty"),
        (" \n", "empty"),
        ("x" * 1_000_001, "over the limit"),
        ("a\x00b", "NUL"),
        ("a\ud800b", "surrogate"),
        (7, "not a string"),
    ],
)
def test_refuses_questions_that_cannot_be_asked(view: View, question: str, error: str) -> None:
    with pytest.raises(InvalidText, match=error):
        view.search(question)
    assert view.events() == []
