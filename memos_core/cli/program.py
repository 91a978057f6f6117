"""The program ``memos``: how functions become commands, how those answer, and how they fail."""

from __future__ import annotations

import functools
import inspect
import json
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypeAlias, TypeVar, cast

import typer
from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from memos_core.cli.options import AsJson, At, Database, json_object
from memos_core.cli.plain import as_json
from memos_core.errors import CubeNotFound, InvalidInput, MemOSError
from memos_core.governance import Caller
from memos_core.memos import MemOS

app = typer.Typer(
    name="memos",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["--help", "-h"]},
)
output = Console()
progress_output = Console(stderr=True)  # so that --json can be piped
_caller: ContextVar[Caller | None] = ContextVar("caller", default=None)  # who asks

Answer: TypeAlias = tuple[object, RenderableType]  # for --json, and as it is shown to people
Report: TypeAlias = Callable[[int, int], None]  # takes how much is done, and of how much
Command = TypeVar("Command", bound=Callable[..., Answer])

_GIVEN = ("view", "report")  # to a command's function; its other parameters are options
_SHARED = tuple(
    inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=option)
    for name, default, option in (
        ("database", None, Database),
        ("at", None, At),
        ("raw", False, AsJson),
    )
)


@app.callback()
def _who(
    user: Annotated[
        str | None,
        typer.Option("--as", help="Ask as this user.", show_default="the application"),
    ] = None,
    role: Annotated[list[str] | None, typer.Option(help="A role he has; repeatable.")] = None,
    circumstances: Annotated[
        str,
        typer.Option("--context", show_default=False, help='In what context: {"place": "ward"}.'),
    ] = "{}",
) -> None:
    """Memory for language-model applications: remember, find, update, forget, and govern."""
    if user is None and (role or circumstances != "{}"):
        raise InvalidInput("--role and --context are those of somebody: say who with --as")
    values = json_object(circumstances, option="--context")
    _caller.set(
        None if user is None else Caller(user=user, roles=tuple(role or ()), context=values)
    )


def main() -> None:
    """Run the command line; errors of ours are printed in a line and exit with 1."""
    try:
        app()
    except MemOSError as error:
        _fail(error)


def _fail(error: MemOSError) -> NoReturn:
    name, said = type(error).__name__, str(error)
    if isinstance(error, CubeNotFound) and not {"--at", "-a"} & set(sys.argv):
        said += " (--at names the namespace of a cube that lies elsewhere)"
    if "--json" in sys.argv:
        print(json.dumps({"error": name, "message": said}), file=sys.stderr)  # noqa: T201
    else:
        progress_output.print(f"[bold red]{name}[/]: ", end="")
        progress_output.print(said, markup=False, highlight=False, soft_wrap=True)
    raise SystemExit(1)


def section(title: str) -> Callable[..., Callable[[Command], Command]]:
    """Return a decorator that makes commands, which the help lists under a title.

    ``@command("archiving")`` says what is being done while it runs. The function gets the ``view``
    that is asked, and where it takes a ``report``, that moves a bar; all commands have the options
    that name a view, and ``--json``. Only one that ``brings`` something makes a database.
    """

    def command(
        doing: str, *, name: str | None = None, brings: bool = False
    ) -> Callable[[Command], Command]:
        def add(function: Command) -> Command:
            app.command(name, rich_help_panel=title)(_asking(function, doing, brings=brings))
            return function

        return add

    return command


def _asking(function: Callable[..., Answer], doing: str, *, brings: bool) -> Callable[..., None]:
    """Return a function as a command that opens the memory, and prints the answer."""
    parameters = inspect.signature(function, eval_str=True).parameters
    waiting = _counting if "report" in parameters else _spinning

    @functools.wraps(function)
    def run(*, database: str | None, at: list[str] | None, raw: bool, **options: object) -> None:
        if not brings:
            _check_there(database)
        with waiting(doing) as given, MemOS.open(database) as memos:
            view = memos.at(*(at or memos.namespace), caller=_caller.get())
            value, shown = function(view=view, **given, **options)
        answer(value, shown, raw=raw)

    own = [one for name, one in parameters.items() if name not in _GIVEN]
    cast("Any", run).__signature__ = inspect.Signature([*own, *_SHARED])
    return run


def _check_there(database: str | None) -> None:
    """Refuse to make a database where a name was mistyped."""
    if not database or "://" in database or "=" in database:
        return
    if not Path(database).exists():
        raise InvalidInput(
            f"there is no database in {database}; memos add, ingest, load and import make one"
        )


@contextmanager
def _spinning(doing: str) -> Generator[dict[str, Report]]:
    """Say what is done: loading the model or starting the server can take seconds."""
    with progress_output.status(doing):
        yield {}


@contextmanager
def _counting(doing: str) -> Generator[dict[str, Report]]:
    with progress(doing) as report:
        yield {"report": report}


@contextmanager
def progress(doing: str) -> Generator[Report]:
    """Show a bar for what takes long; what it gives moves it."""
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=progress_output,
        transient=True,
        disable=not progress_output.is_terminal,  # there it would leave an empty line
    ) as bar:
        task = bar.add_task(doing, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def answer(value: object, shown: RenderableType, *, raw: bool) -> None:
    """Print an answer as JSON, or as it is shown to people."""
    if raw:
        output.out(as_json(value), highlight=False)
    else:
        # A sentence is one line, however narrow the screen: what it names can be copied.
        output.print(shown, soft_wrap=isinstance(shown, Text))
