"""Commands that write memories to files, and read them from files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.text import Text

from memos_core.cli import show
from memos_core.cli.options import Licence, Overwrite, Watermark
from memos_core.cli.plain import plain
from memos_core.cli.program import Answer, Report, section
from memos_core.view import View

command = section("Files")


@command("dumping")
def dump(
    view: View,
    report: Report,
    file: Annotated[Path, typer.Argument(help="A file to write.")],
    events: Annotated[bool, typer.Option("--events", help="With the audit log.")] = False,
    watermark: Watermark = None,
    licence: Licence = None,
    overwrite: Overwrite = False,
) -> Answer:
    """Write a namespace to one file: cubes, histories, messages, lineage, grants, vectors."""
    done = view.dump(
        file,
        events=events,
        watermark=watermark,
        licence=licence,
        overwrite=overwrite,
        report=report,
    )
    return done, show.fields(plain(done))


@command("loading", brings=True)
def load(
    view: View,
    report: Report,
    file: Annotated[Path, typer.Argument(help="A file that dump wrote.")],
    conflict: Annotated[
        Literal["skip", "replace", "new ids"],
        typer.Option(help="What to do about cubes that are there already."),
    ] = "skip",
) -> Answer:
    """Bring a dumped file into a namespace; an interrupted load goes on where it stopped."""
    done = view.load(file, conflict=conflict, report=report)
    return done, show.fields(plain(done))


@command("importing", name="import", brings=True)
def import_file(
    view: View,
    file: Annotated[Path, typer.Argument(help="What another memory layer wrote.")],
    format: Annotated[
        str | None,
        typer.Option(help="langgraph, mem0 or llamaindex.", show_default="recognised"),
    ] = None,
) -> Answer:
    """Take over a dump of LangGraph's store, an export of mem0, a chat store of LlamaIndex."""
    done = view.import_file(file, format=format)
    words = f"{len(done.cubes)} new cube(s) from {done.format}, {done.skipped} skipped"
    return done, Text(words)
