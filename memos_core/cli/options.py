"""What the commands share: their options, the memory they open, and how they answer."""

from __future__ import annotations

import json
import sys
from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import datetime
from typing import Annotated, NoReturn, cast

import typer
from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from memos_core.cli.plain import as_json
from memos_core.errors import InvalidInput, MemOSError
from memos_core.governance import Caller
from memos_core.memos import MemOS
from memos_core.view import View

app = typer.Typer(
    name="memos",
    help="Memory for language-model applications: remember, find, update and forget.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

output = Console()
progress_output = Console(stderr=True)  # so that --json can be piped
_caller: ContextVar[Caller | None] = ContextVar("caller", default=None)  # who asks

Database = Annotated[
    str | None,
    typer.Option(
        "--database",
        "-d",
        envvar="MEMOS_DATABASE",
        help="A postgresql:// URL, or the folder of a private server. [default: your own folder]",
    ),
]
At = Annotated[
    list[str] | None,
    typer.Option("--at", "-a", help="A label of the namespace; repeat it for a path."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Id = Annotated[str, typer.Argument(help="The id of a cube.")]
Ids = Annotated[list[str], typer.Argument(help="The ids of cubes.")]
Tags = Annotated[list[str] | None, typer.Option("--tag", help="A tag; repeatable.")]
AsOf = Annotated[
    datetime | None, typer.Option(help="What was known at this time (this machine's zone).")
]


@app.callback()
def _who(
    user: Annotated[
        str | None, typer.Option("--as", help="Ask as this user. [default: the application]")
    ] = None,
    role: Annotated[list[str] | None, typer.Option(help="A role he has; repeatable.")] = None,
    circumstances: Annotated[
        str, typer.Option("--context", help='In what context: {"place": "ward"}.')
    ] = "{}",
) -> None:
    """Memory for language-model applications: remember, find, update and forget."""
    if user is None and (role or circumstances != "{}"):
        raise InvalidInput("--role and --context are those of somebody: say who with --as")
    values = json_object(circumstances, option="--context")
    _caller.set(Caller(user=user, roles=tuple(role or ()), context=values) if user else None)


def main() -> None:
    """Run the command line; errors of ours are printed in a line and exit with 1."""
    try:
        app()
    except MemOSError as error:
        _fail(error)


def _fail(error: MemOSError) -> NoReturn:
    name = type(error).__name__
    if "--json" in sys.argv:
        print(json.dumps({"error": name, "message": str(error)}), file=sys.stderr)  # noqa: T201
    else:
        progress_output.print(f"[bold red]{name}[/]: ", end="")
        progress_output.print(str(error), markup=False, highlight=False)
    raise SystemExit(1)


def json_object(text: str, *, option: str) -> dict[str, object]:
    """Read an option whose value is a JSON object.

    Raises:
        InvalidInput: it is none.
    """
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise InvalidInput(f"{option} is no JSON: {error}") from error
    if not isinstance(value, dict):
        raise InvalidInput(f"{option} is a JSON object, not {text}")
    return cast("dict[str, object]", value)


@contextmanager
def opened(database: str | None, at: list[str] | None, doing: str) -> Generator[View]:
    """Open the memory; loading the model or starting the server can take seconds, so say so."""
    with progress_output.status(doing), MemOS.open(database) as memos:
        yield view_of(memos, at)


def view_of(memos: MemOS, at: list[str] | None) -> View:
    """Return the view that the options name."""
    return memos.at(*(at or memos.namespace), caller=_caller.get())


def answer(value: object, shown: RenderableType, *, raw: bool) -> None:
    """Print an answer as JSON, or as it is shown to people."""
    if raw:
        output.out(as_json(value), highlight=False)
    else:
        output.print(shown)


def progress() -> Progress:
    """Return a bar for what takes long."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=progress_output,
        transient=True,
    )
