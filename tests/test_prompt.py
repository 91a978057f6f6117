"""Memories as lines for a prompt."""

from __future__ import annotations

from datetime import UTC, datetime

from memos_core import View, render_memories


def test_a_line_has_a_day_and_a_speaker(ann: View) -> None:
    said = datetime(2026, 3, 1, 12, tzinfo=UTC)
    ann.ingest([{"role": "user", "name": "Ann", "content": "I like\n  tea.", "created_at": said}])
    ann.ingest([{"role": "assistant", "content": "Noted: tea.", "created_at": said}])
    cube = ann.add("Ann likes tea.", valid_from="2026-04-01T12:00:00+00:00")
    lines = set(render_memories(ann.search("tea")).splitlines())
    assert lines == {
        "- [2026-03-01] Ann: I like tea.",
        "- [2026-03-01] assistant: Noted: tea.",
        "- [2026-04-01] Ann likes tea.",
    }
    assert render_memories([cube]) == "- [2026-04-01] Ann likes tea."


def test_the_worst_are_left_out_over_a_limit(ann: View) -> None:
    ann.add([f"tea {number}" for number in range(10)])
    hits = ann.search("tea")
    whole = render_memories(hits)
    assert render_memories(hits, token_limit=len(whole)) == whole
    shorter = render_memories(hits, token_limit=len(whole) - 1)
    assert whole.startswith(shorter)
    assert len(shorter.splitlines()) == 9
    words = render_memories(hits, token_limit=8, count_tokens=lambda text: len(text.split()))
    assert len(words.splitlines()) == 2
    assert render_memories(hits, token_limit=3) == ""
    assert render_memories([]) == ""
