"""Commands that remember, find, change and forget."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated
from uuid import UUID

import typer
from rich.console import Group
from rich.text import Text

from memos_core.cli import conversations, show
from memos_core.cli.options import AsOf, Expected, Filter, Id, Tags, json_object
from memos_core.cli.program import Answer, Report, section
from memos_core.errors import InvalidInput
from memos_core.view import View
from memos_core.view.reading import Mode

INGEST_BATCH = 128  # messages a transaction: a second or so with the default model
command = section("Remember and find")


@command("remembering", brings=True)
def add(
    view: View,
    texts: Annotated[list[str], typer.Argument(help="What to remember; one cube each.")],
    tag: Tags = None,
    metadata: Annotated[
        str, typer.Option(show_default=False, help='A JSON object: {"year": 2020}.')
    ] = "{}",
    source: Annotated[str | None, typer.Option(help="Where it comes from.")] = None,
    ttl: Annotated[float | None, typer.Option(help="Seconds after which it is gone.")] = None,
) -> Answer:
    """Remember one or more texts."""
    extra = json_object(metadata, option="--metadata")
    cubes = view.add(texts, tags=tag or (), metadata=extra, source=source, ttl=ttl)
    return cubes, Group(*map(show.cube, cubes))


@command("ingesting", brings=True)
def ingest(
    view: View,
    report: Report,
    file: Annotated[Path, typer.Argument(help="Chat messages in JSON or JSON Lines; - for stdin.")],
    session: Annotated[
        str | None, typer.Option(help="Their session, where they name none.")
    ] = None,
    resolve: Annotated[
        bool,
        typer.Option(
            "--resolve", help="Let a turn change the memory that it repeats or contradicts."
        ),
    ] = False,
) -> Answer:
    """Remember a conversation; messages that are known already are skipped."""
    messages = conversations.messages_in(file)
    cubes: set[UUID] = set()
    for start in range(0, len(messages), INGEST_BATCH):
        report(start, len(messages))
        batch = messages[start : start + INGEST_BATCH]
        cubes |= {cube.id for cube in view.ingest(batch, session=session, resolve=resolve)}
    counts = {"messages": len(messages), "cubes": len(cubes)}
    what = "new or changed cube(s)" if resolve else "new cube(s)"
    return counts, Text(f"{len(messages)} message(s) read, {len(cubes)} {what}")


@command("searching")
def search(
    view: View,
    query: Annotated[str, typer.Argument(help="A question, in any language.")],
    k: Annotated[int, typer.Option("-k", help="How many hits.")] = 5,
    offset: Annotated[int, typer.Option(help="How many to skip.")] = 0,
    tag: Annotated[list[str] | None, typer.Option(help="A tag they must have.")] = None,
    where: Filter = "{}",
    min_score: Annotated[float | None, typer.Option(help="The least score.")] = None,
    context: Annotated[int, typer.Option(help="Neighbouring turns to show.")] = 0,
    as_of: AsOf = None,
    valid_at: Annotated[
        str | None, typer.Option(metavar="TIME", help='What was true then, or "any".')
    ] = None,
    mode: Annotated[Mode, typer.Option(help="By meaning, by words, or by both.")] = "hybrid",
) -> Answer:
    """Find what answers a question."""
    found = view.search(
        query,
        k=k,
        offset=offset,
        tags=tag,
        filter=json_object(where, option="--filter"),
        min_score=min_score,
        context=context,
        as_of=as_of,
        valid_at=valid_at,
        mode=mode,
    )
    return found, show.hits(found)


@command("reading")
def get(view: View, id: Id, as_of: AsOf = None) -> Answer:
    """Show a cube with its header."""
    cube = view.get(id, as_of=as_of)
    return cube, show.cube(cube)


@command("updating")
def update(
    view: View,
    id: Id,
    text: Annotated[str, typer.Argument(help="What it says from now on.")],
    append: Annotated[bool, typer.Option("--append", help="Add the text as a line.")] = False,
    expected_version: Expected = None,
) -> Answer:
    """Store a new version of a cube."""
    mode = "append" if append else "overwrite"
    cube = view.update(id, text, mode=mode, expected_version=expected_version)
    return cube, show.cube(cube)


@command("forgetting")
def forget(
    view: View,
    ids: Annotated[list[str] | None, typer.Argument(help="The ids of cubes.")] = None,
    session: Annotated[str | None, typer.Option(help="All of this session.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="All in the namespace.")] = False,
) -> Answer:
    """Erase cubes, all their versions, and what was said in the turns they came from."""
    if [bool(ids), session is not None, everything].count(True) != 1:
        raise InvalidInput("name what to forget: ids, or --session NAME, or --all")
    report = view.forget(ids) if ids else view.forget_all(session=session)
    return report, show.forgotten(report)
