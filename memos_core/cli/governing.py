"""Commands about who may do what, and what is allowed in a namespace."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.text import Text

from memos_core.cli import show
from memos_core.cli.options import Until, json_object
from memos_core.cli.program import Answer, section
from memos_core.errors import InvalidInput
from memos_core.rules import Rules
from memos_core.view import View

User = Annotated[str | None, typer.Option(help="To this user.")]
Role = Annotated[str | None, typer.Option(help="To all who have this role.")]
Everyone = Annotated[bool, typer.Option("--everyone", help="To everyone.")]
Cube = Annotated[str | None, typer.Option(help="About this cube.")]
Tag = Annotated[str | None, typer.Option(help="About all with this tag.")]
Rights = Annotated[
    list[str] | None,
    typer.Option("--right", help="read, write, share or derive; repeatable.", show_default="read"),
]
command = section("Rights and rules")


@command("granting")
def grant(
    view: View,
    user: User = None,
    role: Role = None,
    everyone: Everyone = False,
    cube: Cube = None,
    tag: Tag = None,
    right: Rights = None,
    condition: Annotated[
        str, typer.Option(show_default=False, help='In this context: {"place": "ward"}.')
    ] = "{}",
    until: Until = None,
) -> Answer:
    """Let somebody do something: with a cube, with all of a tag, or with all of the namespace."""
    _check_whom(user, role, everyone=everyone)
    granted = view.grant(
        user=user,
        role=role,
        everyone=everyone,
        cube=cube,
        tag=tag,
        rights=right or ["read"],
        condition=json_object(condition, option="--condition"),
        until=until,
    )
    return granted, show.grants([granted])


@command("revoking")
def revoke(
    view: View,
    id: Annotated[str | None, typer.Argument(help="The id of a grant.")] = None,
    user: User = None,
    role: Role = None,
    everyone: Everyone = False,
    cube: Cube = None,
    tag: Tag = None,
    right: Annotated[
        list[str] | None, typer.Option(help="Only this right; repeatable.", show_default="all")
    ] = None,
) -> Answer:
    """Take back a grant, or all to somebody about something."""
    if id is None:
        _check_whom(user, role, everyone=everyone)
    revoked = view.revoke(
        id, user=user, role=role, everyone=everyone, cube=cube, tag=tag, rights=right
    )
    return revoked, Text(f"took back {len(revoked)} grant(s)")


@command("reading")
def grants(view: View) -> Answer:
    """Show who may do what."""
    found = view.grants()
    return found, show.grants(found)


@command("reading")
def rules(
    view: View,
    new: Annotated[
        str | None,
        typer.Argument(help='New rules: {"sensitive": {"card": "refuse"}, "max_cubes": 1000}.'),
    ] = None,
    clear: Annotated[bool, typer.Option("--clear", help="Take back the namespace's own.")] = False,
) -> Answer:
    """Show what is allowed in a namespace, or say it anew."""
    if new is not None and clear:
        raise InvalidInput("give new rules or --clear, not both")
    wanted = None if new is None else Rules.from_json(json_object(new, option="what to allow"))
    if wanted is not None or clear:
        view.set_rules(wanted)
    found = view.rules().as_json()
    return found, show.fields(found) if found else Text("no rules: everything is kept")


def _check_whom(user: str | None, role: str | None, *, everyone: bool) -> None:
    if [user is not None, role is not None, everyone].count(True) != 1:
        raise InvalidInput("name for whom: --user NAME, or --role NAME, or --everyone")
