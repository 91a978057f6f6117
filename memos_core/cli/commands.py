"""The commands of ``memos`` that remember, find, change and forget, and those about the server."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Group
from rich.text import Text

from memos_core.cli import files, show
from memos_core.cli.options import (
    AsJson,
    AsOf,
    At,
    Database,
    Id,
    answer,
    app,
    json_object,
    opened,
    output,
    progress,
    progress_output,
    view_of,
)
from memos_core.cli.plain import as_json, plain
from memos_core.errors import InvalidInput
from memos_core.memos import MemOS
from memos_core.model.default import DEFAULT_MODEL, embedder_name, load_embedder
from memos_core.view.reading import Mode

INGEST_BATCH = 128  # messages a transaction: a second or so with the default model

server = typer.Typer(help="The private PostgreSQL server.", no_args_is_help=True)
app.add_typer(server, name="serve-postgres")


@app.command()
def add(
    texts: Annotated[list[str], typer.Argument(help="What to remember; one cube each.")],
    tag: Annotated[list[str] | None, typer.Option(help="A tag; repeatable.")] = None,
    metadata: Annotated[str, typer.Option(help="A JSON object.")] = "{}",
    source: Annotated[str | None, typer.Option(help="Where it comes from.")] = None,
    ttl: Annotated[float | None, typer.Option(help="Seconds after which it is gone.")] = None,
    database: Database = None,
    at: At = None,
    raw: AsJson = False,
) -> None:
    """Remember one or more texts."""
    extra = json_object(metadata, option="--metadata")
    with opened(database, at, "remembering") as view:
        cubes = view.add(texts, tags=tag or (), metadata=extra, source=source, ttl=ttl)
    answer(cubes, Group(*map(show.cube, cubes)), raw=raw)


@app.command()
def ingest(
    file: Annotated[Path, typer.Argument(help="Chat messages in JSON or JSON Lines; - for stdin.")],
    session: Annotated[
        str | None, typer.Option(help="Their session, where they name none.")
    ] = None,
    database: Database = None,
    at: At = None,
    raw: AsJson = False,
) -> None:
    """Remember a conversation; messages that are known already are skipped."""
    messages = files.conversation(file)
    made = 0
    with progress() as bar, MemOS.open(database) as memos:
        view = view_of(memos, at)
        task = bar.add_task("ingesting", total=len(messages))
        for start in range(0, len(messages), INGEST_BATCH):
            batch = messages[start : start + INGEST_BATCH]
            made += len(view.ingest(batch, session=session))
            bar.advance(task, len(batch))
    counts = {"messages": len(messages), "cubes": made}
    answer(counts, f"{len(messages)} messages read, {made} new cubes", raw=raw)


@app.command()
def search(
    query: Annotated[str, typer.Argument(help="A question, in any language.")],
    k: Annotated[int, typer.Option("-k", help="How many hits.")] = 5,
    offset: Annotated[int, typer.Option(help="How many to skip.")] = 0,
    tag: Annotated[list[str] | None, typer.Option(help="A tag they must have.")] = None,
    where: Annotated[
        str, typer.Option("--filter", help='A JSON object: {"year": {"$gte": 2020}}.')
    ] = "{}",
    min_score: Annotated[float | None, typer.Option(help="The least score.")] = None,
    context: Annotated[int, typer.Option(help="Neighbouring turns to show.")] = 0,
    as_of: AsOf = None,
    valid_at: Annotated[str | None, typer.Option(help='What was true then, or "any".')] = None,
    mode: Annotated[Mode, typer.Option(help="By meaning, by words, or by both.")] = "hybrid",
    database: Database = None,
    at: At = None,
    raw: AsJson = False,
) -> None:
    """Find what answers a question."""
    conditions = json_object(where, option="--filter")
    with opened(database, at, "searching") as view:
        found = view.search(
            query,
            k=k,
            offset=offset,
            tags=tag,
            filter=conditions,
            min_score=min_score,
            context=context,
            as_of=as_of,
            valid_at=valid_at,
            mode=mode,
        )
    answer(found, show.hits(found), raw=raw)


@app.command()
def get(
    id: Id, as_of: AsOf = None, database: Database = None, at: At = None, raw: AsJson = False
) -> None:
    """Show a cube with its header."""
    with opened(database, at, "reading") as view:
        cube = view.get(id, as_of=as_of)
    answer(cube, show.cube(cube), raw=raw)


Expected = Annotated[int | None, typer.Option(help="Refuse if it is at another version by now.")]


@app.command()
def update(
    id: Id,
    text: Annotated[str, typer.Argument(help="What it says from now on.")],
    append: Annotated[bool, typer.Option("--append", help="Add the text as a line.")] = False,
    expected_version: Expected = None,
    database: Database = None,
    at: At = None,
    raw: AsJson = False,
) -> None:
    """Store a new version of a cube."""
    with opened(database, at, "updating") as view:
        mode = "append" if append else "overwrite"
        cube = view.update(id, text, mode=mode, expected_version=expected_version)
    answer(cube, show.cube(cube), raw=raw)


@app.command()
def restore(
    id: Id,
    version: Annotated[int, typer.Argument(help="The version to bring back, as a new one.")],
    expected_version: Expected = None,
    database: Database = None,
    at: At = None,
    raw: AsJson = False,
) -> None:
    """Bring back what a cube said at an earlier version."""
    with opened(database, at, "restoring") as view:
        cube = view.restore(id, version=version, expected_version=expected_version)
    answer(cube, show.cube(cube), raw=raw)


@app.command()
def history(id: Id, database: Database = None, at: At = None, raw: AsJson = False) -> None:
    """Show every version of a cube."""
    with opened(database, at, "reading") as view:
        versions = view.history(id)
    answer(versions, show.history(versions), raw=raw)


@app.command()
def forget(
    ids: Annotated[list[str] | None, typer.Argument(help="The ids of cubes.")] = None,
    session: Annotated[str | None, typer.Option(help="All of this session.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="All in the namespace.")] = False,
    database: Database = None,
    at: At = None,
    raw: AsJson = False,
) -> None:
    """Erase cubes, all their versions, and what was said in the turns they came from."""
    if [bool(ids), session is not None, everything].count(True) != 1:
        raise InvalidInput("name what to forget: ids, or --session NAME, or --all")
    with opened(database, at, "forgetting") as view:
        report = view.forget(ids) if ids else view.forget_all(session=session)
    answer(report, show.forgotten(report), raw=raw)


@app.command()
def events(
    kind: Annotated[str | None, typer.Option(help="added, searched, forgot …")] = None,
    cube: Annotated[str | None, typer.Option(help="Only about this cube.")] = None,
    caller: Annotated[str | None, typer.Option(help="Only by this user.")] = None,
    since: Annotated[datetime | None, typer.Option(help="Not before.")] = None,
    until: Annotated[datetime | None, typer.Option(help="Before.")] = None,
    limit: Annotated[int, typer.Option(help="How many.")] = 20,
    offset: Annotated[int, typer.Option(help="How many to skip.")] = 0,
    database: Database = None,
    at: At = None,
    raw: AsJson = False,
) -> None:
    """Show the audit log, the latest first."""
    with opened(database, at, "reading") as view:
        log = view.events(
            kind=kind,
            cube=cube,
            caller=caller,
            since=since,
            until=until,
            limit=limit,
            offset=offset,
        )
    answer(log, show.events(log), raw=raw)


@app.command()
def stats(database: Database = None, at: At = None, raw: AsJson = False) -> None:
    """Count what a namespace holds."""
    with opened(database, at, "counting") as view:
        counted = view.stats()
    answer(counted, show.stats(counted), raw=raw)


@app.command()
def index(database: Database = None, at: At = None, raw: AsJson = False) -> None:
    """Build the search index of a large namespace now, or bring it up to date."""
    with opened(database, at, "building the search index") as view:
        count = view.build_index()
    answer({"indexed": count}, Text(f"{count:,} memories in the search index"), raw=raw)


@app.command()
def reembed(
    model: Annotated[
        str | None, typer.Option(help="A sentence-transformers model. [default: all-MiniLM-L6-v2]")
    ] = None,
    query_prefix: Annotated[str, typer.Option(help="Put before questions.")] = "",
    document_prefix: Annotated[str, typer.Option(help="Put before memories.")] = "",
    database: Database = None,
    raw: AsJson = False,
) -> None:
    """Replace every vector by another model's; an interrupted run goes on where it stopped."""
    with progress() as bar:
        task = bar.add_task("loading the model", total=None)
        embedder = load_embedder(
            embedder_name(
                model or DEFAULT_MODEL, query_prefix=query_prefix, document_prefix=document_prefix
            )
        )

        def report(done: int, everything: int) -> None:
            bar.update(task, description="embedding", completed=done, total=everything)

        count = MemOS.reembed(database, embedder=embedder, report=report)
    done = {"embedder": embedder.name, "versions": count}
    answer(done, Text(f"{count} versions embedded anew by {embedder.name}"), raw=raw)


@app.command()
def demo(raw: AsJson = False) -> None:
    """Watch a conversation being remembered, found, updated and forgotten."""
    try:
        from memos_core.demo import run  # noqa: PLC0415 it loads both frameworks
    except ModuleNotFoundError as error:
        needed = "pip install 'memos-memory[embedded,langchain,llamaindex]'"
        progress_output.print(f"the demo needs {error.name}: {needed}", markup=False)
        raise typer.Exit(1) from error
    failures = run(progress_output if raw else output)
    if raw:
        output.out(as_json({"failures": failures}), highlight=False)
    raise typer.Exit(1 if failures else 0)


@server.command()
def status(database: Database = None, raw: AsJson = False) -> None:
    """Tell whether the server runs."""
    from memos_core.store import embedded  # noqa: PLC0415 an extra

    found = embedded.status(_folder(database))
    words = f"runs (pid {found.pid})" if found.running else "does not run"
    answer(found, Text(f"the server in {found.folder} {words}"), raw=raw)


@server.command()
def stop(database: Database = None, raw: AsJson = False) -> None:
    """Stop the server for everybody who uses it."""
    from memos_core.store import embedded  # noqa: PLC0415 an extra

    where = _folder(database)
    stopped = embedded.stop(where)
    words = "stopped" if stopped else "was not running"
    done = {"folder": plain(where), "stopped": stopped}
    answer(done, Text(f"the server in {where} {words}"), raw=raw)


def _folder(database: str | None) -> Path:
    from memos_core.store import embedded  # noqa: PLC0415 an extra

    if database and "://" in database:
        raise InvalidInput(
            "this is about a private server in a folder, and --database or MEMOS_DATABASE names a "
            "server of yours"
        )
    return Path(database) if database else embedded.default_folder()
