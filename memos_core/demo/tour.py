"""The demo, step by step; each step checks that what it shows is so."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from memos_core.cli import show
from memos_core.demo.frameworks import ask_langchain, ask_llamaindex
from memos_core.hit import Hit
from memos_core.memos import MemOS
from memos_core.store import embedded
from memos_core.view import View

TOP = 3  # an answer counts as found among the first three of some 120 turns


def run(console: Console) -> list[str]:
    """Run the demo on a private server of its own; return what went wrong, nothing if all held."""
    tour = Tour(console)
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="memos-demo-") as folder:
        Path(folder).chmod(0o755)  # as root, PostgreSQL runs under an account of its own
        place = Path(folder) / "postgres"
        with console.status("starting a private PostgreSQL"):
            memos = MemOS.open(place)
        with memos:
            tour.walk(memos)
        embedded.stop(place)  # before its folder is gone
    console.rule(style="dim")
    if tour.failures:
        for failure in tour.failures:
            console.print(Text(f"✗ {failure}", style="bold red"))
    else:
        seconds = time.monotonic() - started
        console.print(f"[bold green]✓[/] every step did what it says, in {seconds:.0f} s")
    return tour.failures


class Tour:
    """The steps, and what failed in them."""

    def __init__(self, console: Console) -> None:
        self.failures: list[str] = []
        self._console = console

    def walk(self, memos: MemOS) -> None:
        """Take every step on an empty memory."""
        view = memos.at("demo", "mara-and-jonas")
        self._remember(view)
        self._ask(view)
        self._update(view)
        self._forget(view)
        self._frameworks(view)
        self._audit(view)

    def _remember(self, view: View) -> None:
        self._step("Remember a conversation", "view.ingest(messages, session=…)")
        story = _data("conversation.json")
        messages = 0
        with self._console.status("loading all-MiniLM-L6-v2, embedding every turn"):
            for session in story["sessions"]:
                view.ingest(session["messages"], session=session["id"])
                messages += len(session["messages"])
        counted = view.stats()
        first, last = story["sessions"][0], story["sessions"][-1]
        self._say(
            f"{messages} turns in {len(story['sessions'])} sessions, "
            f"{_day(first)} to {_day(last)}, are {counted.cubes} cubes"
        )
        self._check(counted.cubes == messages, "a turn of the conversation was not remembered")
        again = view.ingest(first["messages"], session=first["id"])
        self._check(not again, "a session sent twice was remembered twice")

    def _ask(self, view: View) -> None:
        self._step("Ask", "view.search(question, k=3)")
        for asked in _data("questions.json")["live"]:
            found = self._search(view, asked["question"])
            turns = [turn for hit in found for turn in hit.message_ids]
            self._check(
                any(turn in turns for turn in asked["evidence"]),
                f"{asked['question']!r} did not find any of {asked['evidence']}",
            )
        earlier = _data("questions.json")["earlier"]
        self._say(f"and what was true on {earlier['date']}, before the bicycle was mended:")
        then = self._search(view, earlier["question"], valid_at=earlier["date"])
        turns = [turn for hit in then for turn in hit.message_ids]
        self._check(
            all(turn in turns for turn in earlier["evidence"]), "valid_at lost what was true then"
        )
        self._check(
            all(str(hit.cube.valid_from) <= earlier["date"] for hit in then),
            "valid_at returned what was said later",
        )

    def _update(self, view: View) -> None:
        change = _data("questions.json")["update"]
        self._step("Update a fact, and look back", "view.update(id, text), search(…, as_of=…)")
        old = self._search(view, change["question"])[0]
        before = datetime.now(UTC)
        new = view.update(old.cube.id, change["text"], expected_version=old.cube.version)
        self._say(f"updated to version {new.version}; now:")
        now = self._search(view, change["question"])
        self._check(now[0].cube.id == new.id, "the updated memory is not found first")
        self._say("and as of a moment before the update:")
        then = self._search(view, change["question"], as_of=before)
        self._check(then[0].text == old.text, "as_of did not return the old version")
        self._say("its history:")
        self._console.print(show.history(view.history(new.id)))

    def _forget(self, view: View) -> None:
        question = _data("questions.json")["forget"]
        self._step("Forget", "view.forget(id)")
        doomed = self._search(view, question)[0]
        self._console.print(show.forgotten(view.forget(doomed.cube.id)))
        self._say("asked again:")
        left = self._search(view, question)
        self._check(
            all(hit.cube.id != doomed.cube.id for hit in left), "a forgotten memory was found"
        )
        erased = doomed.message_ids
        self._check(
            all(message.id not in erased for message in view.messages()),
            "a forgotten memory is still in the message log",
        )

    def _frameworks(self, view: View) -> None:
        said = _data("questions.json")
        self._step("A LangChain agent", "create_agent(model, middleware=[MemOSMiddleware(view)])")
        self._say("The models here are scripted: they answer with the first memory they are shown.")
        for user, answer in ask_langchain(view, said["langchain"]):
            self._turn(user, answer)
        self._step("A LlamaIndex chat engine", "SimpleChatEngine(memory=MemOSMemory(memos=view))")
        answer = ""
        for user, answer in ask_llamaindex(view, said["llamaindex"]):
            self._turn(user, answer)
        self._check(
            said["shared"] in answer,
            "the LlamaIndex engine did not recall what the LangChain agent was told",
        )
        self._say("The LangChain agent was told so; the memory knows where it has it from:")
        asking = [turn.id for turn in view.messages(limit=2)]  # the question itself, and its answer
        self._search(view, said["llamaindex"][-1], exclude_messages=asking)

    def _audit(self, view: View) -> None:
        self._step("The audit log", "view.events()")
        self._console.print(show.events(view.events(limit=6)))

    # --- telling ---------------------------------------------------------------------------------

    def _search(self, view: View, question: str, **options: Any) -> list[Hit]:
        self._console.print(Text(f"? {question}", style="bold"))
        found = view.search(question, k=TOP, **options)
        self._console.print(show.hits(found))
        self._console.print()
        return found

    def _step(self, title: str, code: str) -> None:
        self._console.print()
        self._console.rule(Text.assemble((title, "bold"), ("  " + code, "dim")), align="left")

    def _say(self, words: str) -> None:
        self._console.print(Text(words, style="italic"))

    def _turn(self, user: str, answer: str) -> None:
        self._console.print(Text.assemble(("user   ", "dim"), user))
        self._console.print(Text.assemble(("model  ", "dim"), (answer, "green")))

    def _check(self, held: object, failure: str) -> None:
        if not held:
            self.failures.append(failure)
            self._console.print(Text(f"✗ {failure}", style="bold red"))


def _data(name: str) -> Any:
    return json.loads(resources.files("memos_core.demo").joinpath(name).read_text("utf-8"))


def _day(session: Mapping[str, Any]) -> str:
    return f"{datetime.fromisoformat(session['messages'][0]['created_at']):%-d %B %Y}"
