"""Commands about what cubes are made of."""

from __future__ import annotations

from typing import Annotated

import typer

from memos_core.cli import show
from memos_core.cli.options import Id, Ids, Tags
from memos_core.cli.program import Answer, section
from memos_core.view import View

command = section("Lineage")


@command("tracing")
def provenance(view: View, id: Id) -> Answer:
    """Show what a cube was made of, down to the messages that said it."""
    found = view.provenance(id)
    return found, found.__rich__()


@command("composing")
def compose(
    view: View,
    name: Annotated[str, typer.Argument(help="The bundle's name.")],
    ids: Ids,
    tag: Tags = None,
) -> Answer:
    """Make an ordered bundle of cubes."""
    cube = view.compose(ids, name, tags=tag or ())
    return cube, show.cube(cube)


@command("fusing")
def fuse(view: View, ids: Ids) -> Answer:
    """Make one cube of several, which speaks for them."""
    cube = view.fuse(ids)
    return cube, show.cube(cube)
