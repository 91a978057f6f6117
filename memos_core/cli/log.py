"""Commands about the audit log."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from memos_core.cli import show
from memos_core.cli.options import Before, Overwrite, Since
from memos_core.cli.program import Answer, section
from memos_core.view import View

command = section("The log")


@command("reading")
def events(
    view: View,
    kind: Annotated[str | None, typer.Option(help="added, searched, forgot …")] = None,
    cube: Annotated[str | None, typer.Option(help="Only about this cube.")] = None,
    caller: Annotated[str | None, typer.Option(help="Only by this user.")] = None,
    since: Since = None,
    until: Before = None,
    limit: Annotated[int, typer.Option(help="How many.")] = 20,
    offset: Annotated[int, typer.Option(help="How many to skip.")] = 0,
) -> Answer:
    """Show the audit log, the latest first."""
    log = view.events(
        kind=kind, cube=cube, caller=caller, since=since, until=until, limit=limit, offset=offset
    )
    return log, show.events(log)


@command("exporting", name="export-events")
def export_events(
    view: View,
    file: Annotated[Path, typer.Argument(help="A file to write.")],
    since: Since = None,
    until: Before = None,
    overwrite: Overwrite = False,
) -> Answer:
    """Write the audit log to a file of JSON lines, the oldest first."""
    count = view.export_events(file, since=since, until=until, overwrite=overwrite)
    return {"events": count}, Text(f"{count:,} events written to {file}")
