"""Commands about the whole database and its server, and the demo."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Group
from rich.text import Text

from memos_core.cli import show
from memos_core.cli.options import AsJson, Database
from memos_core.cli.plain import as_json, plain
from memos_core.cli.program import Answer, answer, app, output, progress, progress_output, section
from memos_core.errors import InvalidInput
from memos_core.memos import MemOS
from memos_core.model.default import DEFAULT_MODEL, embedder_name, load_embedder
from memos_core.view import View

_TITLE = "The database"
command = section(_TITLE)
server = typer.Typer(help="The private PostgreSQL server.", no_args_is_help=True)
app.add_typer(server, name="serve-postgres", rich_help_panel=_TITLE)


@command("counting")
def stats(view: View) -> Answer:
    """Count what a namespace holds."""
    counted = view.stats()
    where = Text("/".join(view.namespace), style="bold")
    return counted, Group(where, show.stats(counted))


@command("building the search index")
def index(view: View) -> Answer:
    """Build the search index of a large namespace now, or bring it up to date."""
    count = view.build_index()
    return {"indexed": count}, Text(f"{count:,} memories in the search index")


@app.command(rich_help_panel=_TITLE)
def reembed(
    model: Annotated[
        str | None,
        typer.Option(help="A sentence-transformers model.", show_default="all-MiniLM-L6-v2"),
    ] = None,
    query_prefix: Annotated[str, typer.Option(help="Put before questions.")] = "",
    document_prefix: Annotated[str, typer.Option(help="Put before memories.")] = "",
    database: Database = None,
    raw: AsJson = False,
) -> None:
    """Replace every vector by another model's; an interrupted run goes on where it stopped."""
    with progress("embedding") as report:
        embedder = load_embedder(
            embedder_name(
                model or DEFAULT_MODEL, query_prefix=query_prefix, document_prefix=document_prefix
            )
        )
        count = MemOS.reembed(database, embedder=embedder, report=report)
    done = {"embedder": embedder.name, "versions": count}
    answer(done, Text(f"{count} versions embedded anew by {embedder.name}"), raw=raw)


@app.command(rich_help_panel=_TITLE)
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
