"""Commands that take cubes from one state to another."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated

import typer
from rich.text import Text

from memos_core.cli import show
from memos_core.cli.options import Ids
from memos_core.cli.program import Answer, section
from memos_core.retention import Retention
from memos_core.view import View

command = section("Lives")


@command("archiving")
def archive(view: View, ids: Ids) -> Answer:
    """Put cubes where search does not look."""
    cubes = view.archive(ids)
    return cubes, show.states(cubes)


@command("activating")
def activate(view: View, ids: Ids) -> Answer:
    """Bring cubes back from the archive."""
    cubes = view.activate(ids)
    return cubes, show.states(cubes)


@command("freezing")
def freeze(view: View, ids: Ids) -> Answer:
    """Hold cubes as they are: every change is refused."""
    cubes = view.freeze(ids)
    return cubes, show.states(cubes)


@command("unfreezing")
def unfreeze(view: View, ids: Ids) -> Answer:
    """Let frozen cubes be changed again."""
    cubes = view.unfreeze(ids)
    return cubes, show.states(cubes)


@command("ending")
def expire(view: View, ids: Ids) -> Answer:
    """End cubes; their history stays."""
    cubes = view.expire(ids)
    return cubes, Text(f"ended {len(cubes)} cube(s)")


@command("sweeping")
def sweep(
    view: View,
    idle: Annotated[
        float | None,
        typer.Option(min=0, metavar="DAYS", help="Archive what nobody used for so long."),
    ] = None,
    half_life: Annotated[
        float | None,
        typer.Option(
            min=0, metavar="DAYS", help="Archive what decayed, by half in so long; use strengthens."
        ),
    ] = None,
    archived: Annotated[
        float | None,
        typer.Option(min=0, metavar="DAYS", help="End what was in the archive for so long."),
    ] = None,
    batch: Annotated[int, typer.Option(help="Cubes in one transaction.")] = 500,
) -> Answer:
    """End what its time is over for; archive what was idle or decayed, end what was archived.

    Without options it goes by the rules of the namespace.
    """
    times = [None if days is None else timedelta(days=days) for days in (idle, half_life, archived)]
    retention = Retention(idle=times[0], half_life=times[1], archived=times[2])
    report = view.sweep(retention if any(times) else None, batch=batch)
    return report, show.swept(report)
