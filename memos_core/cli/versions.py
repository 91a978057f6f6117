"""Commands about the versions of a cube."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.text import Text

from memos_core.cli import show
from memos_core.cli.options import Expected, Id
from memos_core.cli.program import Answer, section
from memos_core.view import View

command = section("Versions")


@command("reading")
def history(view: View, id: Id) -> Answer:
    """Show every version of a cube."""
    versions = view.history(id)
    return versions, show.history(versions)


@command("comparing")
def diff(
    view: View,
    id: Id,
    before: Annotated[int, typer.Argument(help="A version.")],
    after: Annotated[int | None, typer.Argument(help="Another.", show_default="the last")] = None,
) -> Answer:
    """Show what two versions of a cube say differently."""
    found = view.diff(id, before, after)
    return found, found.__rich__() if found else Text("they say the same")


@command("restoring")
def restore(
    view: View,
    id: Id,
    version: Annotated[int, typer.Argument(help="The version to bring back, as a new one.")],
    expected_version: Expected = None,
) -> Answer:
    """Bring back what a cube said at an earlier version."""
    cube = view.restore(id, version=version, expected_version=expected_version)
    return cube, show.cube(cube)
