"""The command line, as a person and as a script use it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from memos_core.cli import app, main, program
from memos_core.errors import InvalidInput
from memos_core.memos import MemOS
from tests.support import WordEmbedder

CONVERSATION = [
    {"id": "m1", "role": "user", "name": "Ann", "content": "I moved to Oslo."},
    {"id": "m2", "role": "assistant", "content": "Congratulations!"},
]


@pytest.fixture
def memos_command(database: str, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Runs ``memos`` on this test's database, with an embedder that needs no weights."""
    opened = MemOS.open

    def open_with_words(where: str | None = None) -> MemOS:
        return opened(where, embedder=WordEmbedder())

    monkeypatch.setattr(program.MemOS, "open", open_with_words)
    monkeypatch.setenv("MEMOS_DATABASE", database)
    monkeypatch.setenv("COLUMNS", "200")
    return lambda *words: CliRunner().invoke(app, [str(word) for word in words])


def answer(result: Result) -> Any:
    assert result.exit_code == 0, result.output + repr(result.exception)
    return json.loads(result.stdout)


def test_adds_finds_shows_and_forgets(memos_command: Callable[..., Result]) -> None:
    at = ("--at", "acme", "--at", "ann/b@x.org")
    (cube,) = answer(memos_command("add", "Ann likes tea.", "--tag", "taste", *at, "--json"))
    assert cube["namespace"] == ["acme", "ann/b@x.org"]
    (hit,) = answer(memos_command("search", "tea", *at, "--json"))
    assert hit["cube"]["id"] == cube["id"]
    assert answer(memos_command("get", cube["id"], *at, "--json"))["tags"] == ["taste"]
    assert len(answer(memos_command("history", cube["id"], *at, "--json"))) == 1
    assert answer(memos_command("stats", *at, "--json"))["cubes"] == 1
    report = answer(memos_command("forget", cube["id"], *at, "--json"))
    assert report["cubes"] == [cube["id"]]
    assert answer(memos_command("search", "tea", *at, "--json")) == []
    kinds = [event["kind"] for event in answer(memos_command("events", *at, "--json"))]
    assert kinds == ["searched", "forgot", "read", "read", "searched", "added"]


def test_updates_and_restores(memos_command: Callable[..., Result]) -> None:
    (cube,) = answer(memos_command("add", "Milk.", "--json"))
    changed = answer(memos_command("update", cube["id"], "Bread.", "--append", "--json"))
    assert (changed["version"], changed["text"]) == (2, "Milk.\nBread.")
    stale = memos_command("update", cube["id"], "Eggs.", "--expected-version", "1")
    assert type(stale.exception).__name__ == "VersionConflict"
    assert answer(memos_command("restore", cube["id"], "1", "--json"))["text"] == "Milk."
    shown = memos_command("history", cube["id"]).stdout
    assert "(restored from 1)" in shown
    assert "3" in shown


def test_forgets_what_it_is_told_to(memos_command: Callable[..., Result]) -> None:
    memos_command("add", "one", "two")
    for words in ((), ("--all", "--session", "x")):
        assert "name what to forget" in str(memos_command("forget", *words).exception)
    assert len(answer(memos_command("forget", "--session", "x", "--json"))["cubes"]) == 0
    assert len(answer(memos_command("forget", "--all", "--json"))["cubes"]) == 2


def test_shows_answers_to_people(memos_command: Callable[..., Result]) -> None:
    added = memos_command("add", "Ann likes [bold]tea[/bold].", "--metadata", '{"year": 2020}')
    assert "[bold]tea[/bold]" in added.stdout
    found = memos_command("search", "tea", "--filter", '{"year": {"$gte": 2019}}')
    assert "Ann likes [bold]tea[/bold]." in found.stdout
    assert "lexical" in found.stdout
    assert "added" in memos_command("events").stdout
    assert "nothing was logged" in memos_command("events", "--kind", "forgot").stdout
    assert "nothing found" in memos_command("search", "tea", "--min-score", "2").stdout


@pytest.mark.parametrize(
    "text",
    [
        json.dumps(CONVERSATION),
        json.dumps({"messages": CONVERSATION}),
        json.dumps({"sessions": [{"id": "monday", "messages": CONVERSATION}]}),
        "\n".join(json.dumps(message) for message in CONVERSATION),
    ],
    ids=["list", "messages", "sessions", "lines"],
)
def test_ingests_files(memos_command: Callable[..., Result], tmp_path: Path, text: str) -> None:
    file = tmp_path / "chat.json"
    file.write_text(text, "utf-8")
    assert answer(memos_command("ingest", file, "--json")) == {"messages": 2, "cubes": 2}
    assert answer(memos_command("ingest", file, "--json")) == {"messages": 2, "cubes": 0}
    (hit,) = answer(memos_command("search", "Oslo", "-k", "1", "--json"))
    assert hit["cube"]["provenance"]["session"] == ("monday" if "sessions" in text else None)


def test_resolves_what_is_said_again(memos_command: Callable[..., Result], tmp_path: Path) -> None:
    file = tmp_path / "chat.json"
    said = ["I have two dogs.", "I have three dogs."]
    turns = [{"role": "user", "name": "Ann", "content": text} for text in said]
    file.write_text(json.dumps(turns), "utf-8")
    assert answer(memos_command("ingest", file, "--at", "a", "--json"))["cubes"] == 2
    resolved = answer(memos_command("ingest", file, "--resolve", "--at", "b", "--json"))
    assert resolved == {"messages": 2, "cubes": 1}
    (hit,) = answer(memos_command("search", "dogs", "--at", "b", "--json"))
    assert (hit["cube"]["text"], hit["cube"]["version"]) == (said[1], 2)
    shown = memos_command("ingest", file, "--resolve", "--at", "c").stdout
    assert "2 message(s) read, 1 new or changed cube(s)" in shown


@pytest.mark.parametrize("flag", [[], ["--json"]])
def test_an_error_is_one_line_and_exit_code_1(
    memos_command: Callable[..., Result],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    flag: list[str],
) -> None:
    assert memos_command is not None
    words = ["memos", "get", "01a20c0d-c046-7015-9d84-d7b9901708fa", *flag]
    monkeypatch.setattr("sys.argv", words)
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 1
    said = capsys.readouterr().err
    assert "CubeNotFound" in said
    assert "--at names the namespace" in said
    assert "Traceback" not in said
    if flag:
        assert json.loads(said)["error"] == "CubeNotFound"


@pytest.mark.parametrize("content", ["{", "7", '{"messages": [7]}'])
def test_refuses_files_that_are_no_conversation(
    memos_command: Callable[..., Result], tmp_path: Path, content: str
) -> None:
    file = tmp_path / "chat.json"
    file.write_text(content, "utf-8")
    result = memos_command("ingest", file)
    assert type(result.exception).__name__ == "InvalidInput"


def test_reembeds_with_another_model(
    memos_command: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    memos_command("add", "Ann likes tea.", "Ann likes cake.")
    monkeypatch.setattr(
        "memos_core.cli.database.load_embedder", lambda name: WordEmbedder(name, width=32)
    )
    done = answer(memos_command("reembed", "--model", "other", "--json"))
    assert done == {"embedder": "other", "versions": 2}
    done = answer(memos_command("reembed", "--model", "e", "--query-prefix", "q: ", "--json"))
    assert done["embedder"] == "e?query_prefix=q%3A+&document_prefix="
    refused = memos_command("search", "tea")
    assert type(refused.exception).__name__ == "EmbedderMismatch"


def test_reads_files_of_other_programs(
    memos_command: Callable[..., Result], tmp_path: Path
) -> None:
    file = tmp_path / "chat.jsonl"
    lines = [json.dumps(one | {"content": "a\u2028b"}, ensure_ascii=False) for one in CONVERSATION]
    file.write_bytes(b"\xef\xbb\xbf" + "\r\n".join(lines).encode())
    assert answer(memos_command("ingest", file, "--json")) == {"messages": 2, "cubes": 2}


def test_a_folder_is_shown_as_it_is_named(
    memos_command: Callable[..., Result], tmp_path: Path
) -> None:
    folder = tmp_path / ("long" * 20) / "a[bold]b[/x]"
    told = memos_command("serve-postgres", "status", "-d", folder).stdout
    assert f"{folder} does not run" in told
    refused = memos_command("serve-postgres", "stop", "-d", "postgresql://host/db")
    assert "a server of yours" in str(refused.exception)


def test_reading_makes_no_database(memos_command: Callable[..., Result], tmp_path: Path) -> None:
    for words in (("stats",), ("search", "tea")):
        refused = memos_command(*words, "-d", tmp_path / "mistyped")
        assert "there is no database in" in str(refused.exception)
    assert not (tmp_path / "mistyped").exists()


def test_stats_say_of_what(memos_command: Callable[..., Result]) -> None:
    assert memos_command("stats", "--at", "acme", "--at", "ann").stdout.startswith("acme/ann\n")


def test_tells_of_the_private_server(memos_command: Callable[..., Result], tmp_path: Path) -> None:
    folder = tmp_path / "postgres"
    status = answer(memos_command("serve-postgres", "status", "--database", folder, "--json"))
    assert status["running"] is False
    stopped = answer(memos_command("serve-postgres", "stop", "--database", folder, "--json"))
    assert stopped["stopped"] is False


def test_governs_a_cube(memos_command: Callable[..., Result]) -> None:
    one, two = answer(memos_command("add", "Ann likes tea.", "Ann likes cake.", "--json"))
    ids = (one["id"], two["id"])
    memos_command("update", ids[0], "Ann loves tea.")
    changed = answer(memos_command("diff", ids[0], 1, "--json"))
    assert changed["text"][-2:] == ["-Ann likes tea.", "+Ann loves tea."]
    assert "Ann loves tea." in memos_command("diff", ids[0], 1, 2).stdout
    fused = answer(memos_command("fuse", *ids, "--json"))
    bundle = answer(memos_command("compose", "tastes", fused["id"], "--tag", "x", "--json"))
    assert bundle["text"].startswith("tastes\n")
    tree = memos_command("provenance", bundle["id"]).stdout
    assert "composed ← " in tree
    assert "merged ← Ann likes cake." in tree
    assert len(answer(memos_command("provenance", bundle["id"], "--json"))["edges"]) == 3
    for verb, state in (
        ("archive", "archived"),
        ("activate", "activated"),
        ("freeze", "frozen"),
        ("unfreeze", "activated"),
    ):
        assert answer(memos_command(verb, ids[0], "--json"))[0]["state"] == state
        assert "archived" in memos_command("history", ids[0]).stdout
    assert len(answer(memos_command("expire", fused["id"], "--json"))) == 1
    memos_command("add", "brief", "--ttl", 0.001)
    assert len(answer(memos_command("sweep", "--json"))["expired"]) == 1
    assert "ended 0" in memos_command("sweep", "--idle", 30, "--archived", 30).stdout


def test_asks_as_somebody(memos_command: Callable[..., Result]) -> None:
    ann, bob = ("--as", "ann"), ("--as", "bob", "--role", "nurse", "--context", '{"at": "ward"}')
    (cube,) = answer(memos_command(*ann, "add", "Ann's tea", "--tag", "x", "--json"))
    assert cube["governance"]["owner"] == "ann"
    assert answer(memos_command(*bob, "search", "tea", "--json")) == []
    granted = answer(
        memos_command(
            *ann, "grant", "--role", "nurse", "--tag", "x", "--right", "read", "--right", "derive",
            "--condition", '{"at": "ward"}', "--json",
        )
    )  # fmt: skip
    assert granted["rights"] == ["read", "derive"]
    assert len(answer(memos_command(*bob, "search", "tea", "--json"))) == 1
    shown = memos_command("grants").stdout
    assert "role nurse" in shown
    assert "tag x of ann" in shown
    refused = memos_command(*bob, "update", cube["id"], "mine")
    assert type(refused.exception).__name__ == "NotPermitted"
    assert len(answer(memos_command(*ann, "revoke", granted["id"], "--json"))) == 1
    assert answer(memos_command(*ann, "revoke", "--role", "nurse", "--tag", "x", "--json")) == []
    assert answer(memos_command(*bob, "search", "tea", "--json")) == []
    assert "nothing was granted" in memos_command("grants").stdout


def test_says_what_is_allowed(memos_command: Callable[..., Result]) -> None:
    new = '{"sensitive": {"email": "redact"}, "max_cubes": 1}'
    assert answer(memos_command("rules", new, "--json"))["max_cubes"] == 1
    (cube,) = answer(memos_command("add", "ann@example.com", "--json"))
    assert cube["text"] == "[email]"
    assert type(memos_command("add", "two").exception).__name__ == "LimitExceeded"
    assert "max_cubes" in memos_command("rules").stdout
    assert "no rules" in memos_command("rules", "--clear").stdout


@pytest.mark.parametrize(
    ("words", "advice"),
    [
        (("rules", '{"most": 1}'), "the rules have no 'most'; known: sensitive, export, region"),
        (("rules", '{"retention": 5}'), "retention is an object such as"),
        (("rules", '{"retention": {"idel": 5}}'), "a retention has no 'idel'"),
        (("rules", '{"retention": {"idle": "long"}}'), "this is no retention"),
        (("rules", '{"max_cubes": 1}', "--clear"), "not both"),
        (("rules", "most"), "what to allow is a JSON object such as"),
        (("grant",), "--user NAME, or --role NAME, or --everyone"),
        (("grant", "--user", "bo", "--everyone"), "--user NAME, or --role NAME, or --everyone"),
        (("get", "x"), "'x' is no cube id: ids are UUIDs"),
        (("revoke", "x"), "'x' is no grant id: ids are UUIDs"),
        (("withdraw", "x"), "'x' is no publication id: ids are UUIDs"),
        (("unsubscribe", "x"), "'x' is no subscription id: ids are UUIDs"),
        (("revoke",), "--user NAME, or --role NAME, or --everyone"),
        (("add", "x", "--metadata", "{"), "--metadata is a JSON object such as"),
        (("add", "x", "--metadata", "[1]"), "--metadata is a JSON object such as"),
        (("search", "x", "--as-of", "yesterday"), "no ISO 8601 date and time"),
        (("ingest", "/nowhere"), "cannot read /nowhere: No such file"),
        (("export-events", "/nowhere/log"), "/nowhere/log cannot be written: No such file"),
        (("--role", "nurse", "search", "tea"), "say who with --as"),
        (("--as", "", "stats"), "a caller's user must be a non-empty string"),
    ],
)
def test_bad_input_is_told_in_the_words_of_the_command_line(
    memos_command: Callable[..., Result], words: tuple[str, ...], advice: str
) -> None:
    error = memos_command(*words).exception
    assert isinstance(error, InvalidInput)
    assert advice in str(error)


@pytest.mark.parametrize(
    ("content", "place"),
    [
        ('{"role": "user", "content": "a"}\n{"role"', "line 2 of"),
        ('[\n  {"role": "user",\n  ]', "line 3 column"),
    ],
)
def test_a_broken_file_is_told_by_its_line(
    memos_command: Callable[..., Result], tmp_path: Path, content: str, place: str
) -> None:
    file = tmp_path / "chat.json"
    file.write_text(content, "utf-8")
    assert place in str(memos_command("ingest", file).exception)


def test_retention_by_rules_needs_no_floor(memos_command: Callable[..., Result]) -> None:
    new = answer(memos_command("rules", '{"retention": {"idle": 86400}}', "--json"))
    assert new["retention"]["idle"] == 86400


def test_publishes_and_takes(memos_command: Callable[..., Result], tmp_path: Path) -> None:
    acme, globex = ("--at", "acme"), ("--at", "globex")
    memos_command("add", "tea", "--tag", "recipe", *acme)
    made = answer(memos_command("publish", "recipes", "--tag", "recipe", *acme, "--json"))
    assert "subscribed to recipes" in memos_command("subscribe", "recipes", *globex).stdout
    assert len(answer(memos_command("sync", *globex, "--json"))["added"]) == 1
    assert "takes recipes" in memos_command("channels", *globex).stdout
    assert answer(memos_command("withdraw", made["id"], *acme, "--json")) == {"withdrawn": True}
    assert "1 withdrawn" in memos_command("sync", *globex).stdout
    taken = answer(memos_command("channels", *globex, "--json"))["subscriptions"][0]
    memos_command("unsubscribe", taken["id"], *globex)
    assert answer(memos_command("channels", *globex, "--json"))["subscriptions"] == []
    log = tmp_path / "log.jsonl"
    assert answer(memos_command("export-events", log, *acme, "--json"))["events"] >= 4
    assert len(log.read_text().splitlines()) >= 4


def test_dumps_loads_and_imports(memos_command: Callable[..., Result], tmp_path: Path) -> None:
    file, at = tmp_path / "a.memos", ("--at", "acme")
    memos_command("add", "Ann likes tea.", *at)
    assert answer(memos_command("dump", file, "--events", *at, "--json"))["cubes"] == 1
    assert "overwrite" in str(memos_command("dump", file, *at).exception)
    copy = ("--at", "copy")
    assert answer(memos_command("load", file, *copy, "--json"))["cubes"] == 1
    again = memos_command("load", file, *copy).stdout
    assert "skipped  1" in " ".join(again.split()).replace("skipped 1", "skipped  1")
    assert answer(memos_command("load", file, "--conflict", "new ids", *copy, "--json"))["cubes"]
    export = tmp_path / "mem0.json"
    export.write_text(json.dumps({"results": [{"id": "1", "memory": "Likes cake"}]}), "utf-8")
    assert "1 new cube(s) from mem0" in memos_command("import", export, *at).stdout


def test_messages_without_a_session_get_the_one_that_is_named(
    memos_command: Callable[..., Result], tmp_path: Path
) -> None:
    file = tmp_path / "chat.json"
    file.write_text(json.dumps(CONVERSATION), "utf-8")
    memos_command("ingest", file, "--session", "tuesday")
    (hit,) = answer(memos_command("search", "Oslo", "-k", "1", "--json"))
    assert hit["cube"]["provenance"]["session"] == "tuesday"


def test_a_sweep_without_options_goes_by_the_rules(memos_command: Callable[..., Result]) -> None:
    memos_command("add", "Ann likes tea.")
    memos_command("rules", '{"retention": {"idle": 0.000001}}')
    assert answer(memos_command("sweep", "--idle", "30", "--json"))["archived"] == []
    assert len(answer(memos_command("sweep", "--json"))["archived"]) == 1


def test_a_publication_is_as_it_was_asked_for(memos_command: Callable[..., Result]) -> None:
    made = answer(
        memos_command(
            "publish", "recipes", "--tag", "recipe", "--filter", '{"year": 2020}', "--licence",
            "MIT", "--watermark", "w7", "--tenant", "globex", "--tenant", "initech", "--until",
            "2100-01-01T00:00+00:00", "--json",
        )
    )  # fmt: skip
    assert made["matching"]["tags"] == ["recipe"]
    assert "2020" in made["matching"]["conditions"]
    assert (made["licence"], made["watermark"]) == ("MIT", "w7")
    assert made["tenants"] == ["globex", "initech"]
    assert made["expires_at"].startswith(("2100-01-01", "2099-12-31"))


def test_the_log_is_read_and_written_of_a_time(
    memos_command: Callable[..., Result], tmp_path: Path
) -> None:
    (cube,) = answer(memos_command("add", "Ann likes tea.", "--json"))
    memos_command("search", "tea")
    at = cube["created_at"]  # with its zone, as it was printed
    assert "+" in at or at.endswith("Z")
    assert answer(memos_command("events", "--until", at, "--json")) == []
    assert len(answer(memos_command("events", "--since", at, "--json"))) == 2
    file = tmp_path / "log.jsonl"
    assert answer(memos_command("export-events", file, "--until", at, "--json")) == {"events": 0}
    again = ("export-events", file, "--since", at, "--overwrite", "--json")
    assert answer(memos_command(*again)) == {"events": 3}, "the first export is an event"


def test_each_command_is_listed_under_a_title(memos_command: Callable[..., Result]) -> None:
    shown = memos_command("--help").stdout
    titles = [
        "Remember and find", "Versions", "Lives", "Lineage", "Rights and rules", "The log", "Files",
        "Channels", "The database",
    ]  # fmt: skip
    places = [shown.index(f"─ {title} ─") for title in titles]
    assert places == sorted(places)
    assert "─ Commands ─" not in shown


def test_defaults_are_told(memos_command: Callable[..., Result]) -> None:
    assert "[default: (your own folder)]" in memos_command("stats", "--help").stdout
    assert "[default: (read)]" in memos_command("grant", "--help").stdout
