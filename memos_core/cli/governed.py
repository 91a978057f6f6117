"""The commands of ``memos`` about lives, versions, lineage, rights, rules and channels."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Group
from rich.text import Text

from memos_core.cli import show
from memos_core.cli.options import (
    AsJson,
    At,
    Database,
    Id,
    Ids,
    Tags,
    answer,
    app,
    json_object,
    opened,
    progress,
    view_of,
)
from memos_core.cli.plain import plain
from memos_core.errors import InvalidInput
from memos_core.memos import MemOS
from memos_core.retention import Retention
from memos_core.rules import Rules

# --- lives ----------------------------------------------------------------------------------------


@app.command()
def archive(ids: Ids, database: Database = None, at: At = None, raw: AsJson = False) -> None:
    """Put cubes where search does not look."""
    with opened(database, at, "archiving") as view:
        cubes = view.archive(ids)
    answer(cubes, show.states(cubes), raw=raw)


@app.command()
def activate(ids: Ids, database: Database = None, at: At = None, raw: AsJson = False) -> None:
    """Bring cubes back from the archive."""
    with opened(database, at, "activating") as view:
        cubes = view.activate(ids)
    answer(cubes, show.states(cubes), raw=raw)


@app.command()
def freeze(ids: Ids, database: Database = None, at: At = None, raw: AsJson = False) -> None:
    """Hold cubes as they are: every change is refused."""
    with opened(database, at, "freezing") as view:
        cubes = view.freeze(ids)
    answer(cubes, show.states(cubes), raw=raw)


@app.command()
def unfreeze(ids: Ids, database: Database = None, at: At = None, raw: AsJson = False) -> None:
    """Let frozen cubes be changed again."""
    with opened(database, at, "unfreezing") as view:
        cubes = view.unfreeze(ids)
    answer(cubes, show.states(cubes), raw=raw)


@app.command()
def expire(ids: Ids, database: Database = None, at: At = None, raw: AsJson = False) -> None:
    """End cubes; their history stays."""
    with opened(database, at, "ending") as view:
        cubes = view.expire(ids)
    answer(cubes, Text(f"ended {len(cubes)} cube(s)"), raw=raw)


Days = Annotated[float | None, typer.Option(min=0, help="In days.")]


@app.command()
def sweep(
    idle: Days = None,
    half_life: Days = None,
    archived: Days = None,
    batch: Annotated[int, typer.Option(help="Cubes in one transaction.")] = 500,
    database: Database = None,
    at: At = None,
    raw: AsJson = False,
) -> None:
    """End what its time is over for; archive what was idle or decayed, end what was archived.

    Without options it goes by the rules of the namespace.
    """
    times = [None if days is None else timedelta(days=days) for days in (idle, half_life, archived)]
    retention = Retention(idle=times[0], half_life=times[1], archived=times[2])
    with opened(database, at, "sweeping") as view:
        report = view.sweep(retention if any(times) else None, batch=batch)
    answer(report, show.swept(report), raw=raw)


# --- versions and lineage -------------------------------------------------------------------------


@app.command()
def diff(
    id: Id,
    before: Annotated[int, typer.Argument(help="A version.")],
    after: Annotated[int | None, typer.Argument(help="Another. [default: the last]")] = None,
    database: Database = None,
    at: At = None,
    raw: AsJson = False,
) -> None:
    """Show what two versions of a cube say differently."""
    with opened(database, at, "comparing") as view:
        found = view.diff(id, before, after)
    answer(found, found.__rich__() if found else Text("they say the same"), raw=raw)


@app.command()
def provenance(id: Id, database: Database = None, at: At = None, raw: AsJson = False) -> None:
    """Show what a cube was made of, down to the messages that said it."""
    with opened(database, at, "tracing") as view:
        found = view.provenance(id)
    answer(found, found.__rich__(), raw=raw)


@app.command()
def compose(
    name: Annotated[str, typer.Argument(help="The bundle's name.")],
    ids: Ids,
    tag: Tags = None,
    database: Database = None,
    at: At = None,
    raw: AsJson = False,
) -> None:
    """Make an ordered bundle of cubes."""
    with opened(database, at, "composing") as view:
        cube = view.compose(ids, name, tags=tag or ())
    answer(cube, show.cube(cube), raw=raw)


@app.command()
def fuse(ids: Ids, database: Database = None, at: At = None, raw: AsJson = False) -> None:
    """Make one cube of several, which speaks for them."""
    with opened(database, at, "fusing") as view:
        cube = view.fuse(ids)
    answer(cube, show.cube(cube), raw=raw)


# --- rights and rules -----------------------------------------------------------------------------

User = Annotated[str | None, typer.Option(help="To this user.")]
Role = Annotated[str | None, typer.Option(help="To all who have this role.")]
Everyone = Annotated[bool, typer.Option("--everyone", help="To everyone.")]
Cube = Annotated[str | None, typer.Option(help="About this cube.")]
Tag = Annotated[str | None, typer.Option(help="About all with this tag.")]
RightNames = Annotated[
    list[str] | None, typer.Option("--right", help="read, write, share or derive; repeatable.")
]


@app.command()
def grant(
    user: User = None,
    role: Role = None,
    everyone: Everyone = False,
    cube: Cube = None,
    tag: Tag = None,
    right: RightNames = None,
    condition: Annotated[str, typer.Option(help='In this context: {"place": "ward"}.')] = "{}",
    until: Annotated[datetime | None, typer.Option(help="Until then.")] = None,
    database: Database = None,
    at: At = None,
    raw: AsJson = False,
) -> None:
    """Let somebody do something: with a cube, with all of a tag, or with all of the namespace."""
    with opened(database, at, "granting") as view:
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
    answer(granted, show.grants([granted]), raw=raw)


@app.command()
def revoke(
    id: Annotated[str | None, typer.Argument(help="The id of a grant.")] = None,
    user: User = None,
    role: Role = None,
    everyone: Everyone = False,
    cube: Cube = None,
    tag: Tag = None,
    right: RightNames = None,
    database: Database = None,
    at: At = None,
    raw: AsJson = False,
) -> None:
    """Take back a grant, or all to somebody about something."""
    with opened(database, at, "revoking") as view:
        revoked = view.revoke(
            id, user=user, role=role, everyone=everyone, cube=cube, tag=tag, rights=right
        )
    answer(revoked, Text(f"took back {len(revoked)} grant(s)"), raw=raw)


@app.command()
def grants(database: Database = None, at: At = None, raw: AsJson = False) -> None:
    """Show who may do what."""
    with opened(database, at, "reading") as view:
        found = view.grants()
    answer(found, show.grants(found), raw=raw)


@app.command()
def rules(
    new: Annotated[
        str | None,
        typer.Argument(help='New rules: {"sensitive": {"card": "refuse"}, "max_cubes": 1000}.'),
    ] = None,
    clear: Annotated[bool, typer.Option("--clear", help="Take back the namespace's own.")] = False,
    database: Database = None,
    at: At = None,
    raw: AsJson = False,
) -> None:
    """Show what is allowed in a namespace, or say it anew."""
    if new is not None and clear:
        raise InvalidInput("give new rules or --clear, not both")
    wanted = None
    if new is not None:
        try:
            wanted = Rules.from_json(json_object(new, option="rules"))
        except TypeError as error:
            raise InvalidInput(f"these are no rules: {error}") from error
    with opened(database, at, "reading") as view:
        if new is not None or clear:
            view.set_rules(wanted)
        found = view.rules().as_json()
    answer(found, show.fields(found) if found else Text("no rules: everything is kept"), raw=raw)


# --- channels -------------------------------------------------------------------------------------


@app.command()
def publish(
    channel: Annotated[str, typer.Argument(help="The channel's name.")],
    tag: Tags = None,
    where: Annotated[str, typer.Option("--filter", help="A metadata filter in JSON.")] = "{}",
    licence: Annotated[str | None, typer.Option(help="The licence of each copy.")] = None,
    watermark: Annotated[str | None, typer.Option(help="A mark of each copy.")] = None,
    tenant: Annotated[
        list[str] | None, typer.Option(help="Only to this tenant; repeatable.")
    ] = None,
    until: Annotated[datetime | None, typer.Option(help="Until then.")] = None,
    database: Database = None,
    at: At = None,
    raw: AsJson = False,
) -> None:
    """Offer the cubes that match, now and later, to other tenants."""
    with opened(database, at, "publishing") as view:
        made = view.publish(
            channel,
            tags=tag or (),
            filter=json_object(where, option="--filter"),
            licence=licence,
            watermark=watermark,
            tenants=tenant or None,
            until=until,
        )
    answer(made, Text(f"published in {made.channel}: {made.id}"), raw=raw)


@app.command()
def withdraw(
    id: Annotated[str, typer.Argument(help="The id of a publication.")],
    database: Database = None,
    at: At = None,
    raw: AsJson = False,
) -> None:
    """Take back an offer; its copies go with the subscribers' next sync."""
    with opened(database, at, "withdrawing") as view:
        done = view.withdraw(id)
    words = "withdrawn" if done else "nothing stands under this id that may be withdrawn"
    answer({"withdrawn": done}, Text(words), raw=raw)


@app.command()
def subscribe(
    channel: Annotated[str, typer.Argument(help="The channel's name.")],
    publisher: Annotated[str | None, typer.Option(help="Only of this tenant.")] = None,
    tag: Tags = None,
    where: Annotated[str, typer.Option("--filter", help="A metadata filter in JSON.")] = "{}",
    database: Database = None,
    at: At = None,
    raw: AsJson = False,
) -> None:
    """Take what others publish in a channel, with sync."""
    with opened(database, at, "subscribing") as view:
        made = view.subscribe(
            channel,
            publisher=publisher,
            tags=tag or (),
            filter=json_object(where, option="--filter"),
        )
    answer(made, Text(f"subscribed to {made.channel}: {made.id}"), raw=raw)


@app.command()
def unsubscribe(
    id: Annotated[str, typer.Argument(help="The id of a subscription.")],
    database: Database = None,
    at: At = None,
    raw: AsJson = False,
) -> None:
    """Take no more, and forget the copies."""
    with opened(database, at, "unsubscribing") as view:
        report = view.unsubscribe(id)
    answer(report, show.synced(report), raw=raw)


@app.command()
def channels(database: Database = None, at: At = None, raw: AsJson = False) -> None:
    """Show what a namespace publishes, and what it takes."""
    with opened(database, at, "reading") as view:
        offered, taken = view.publications(), view.subscriptions()
    shown = Group(
        *(Text(f"publishes in {one.channel}: {one.id}") for one in offered),
        *(Text(f"takes {one.channel}: {one.id}") for one in taken),
    )
    answer({"publications": offered, "subscriptions": taken}, shown, raw=raw)


@app.command()
def sync(database: Database = None, at: At = None, raw: AsJson = False) -> None:
    """Bring a namespace up to date with what it takes."""
    with opened(database, at, "synchronizing") as view:
        report = view.sync()
    answer(report, show.synced(report), raw=raw)


# --- the log --------------------------------------------------------------------------------------


@app.command(name="export-events")
def export_events(
    file: Annotated[Path, typer.Argument(help="A file to write.")],
    since: Annotated[datetime | None, typer.Option(help="Not before.")] = None,
    until: Annotated[datetime | None, typer.Option(help="Before.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Even if it is there.")] = False,
    database: Database = None,
    at: At = None,
    raw: AsJson = False,
) -> None:
    """Write the audit log to a file of JSON lines, the oldest first."""
    with opened(database, at, "exporting") as view:
        count = view.export_events(file, since=since, until=until, overwrite=overwrite)
    answer({"events": count}, Text(f"{count:,} events written to {file}"), raw=raw)


# --- archives -------------------------------------------------------------------------------------


@app.command()
def dump(
    file: Annotated[Path, typer.Argument(help="A file to write.")],
    events: Annotated[bool, typer.Option("--events", help="With the audit log.")] = False,
    watermark: Annotated[str | None, typer.Option(help="A mark of each cube.")] = None,
    licence: Annotated[str | None, typer.Option(help="The licence of the file.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Even if it is there.")] = False,
    database: Database = None,
    at: At = None,
    raw: AsJson = False,
) -> None:
    """Write a namespace to one file: cubes, histories, messages, lineage, grants, vectors."""
    with progress() as bar, MemOS.open(database) as memos:
        task = bar.add_task("dumping", total=None)
        report = view_of(memos, at).dump(
            file,
            events=events,
            watermark=watermark,
            licence=licence,
            overwrite=overwrite,
            report=lambda done, every: bar.update(task, completed=done, total=every),
        )
    answer(report, show.fields(plain(report)), raw=raw)


@app.command()
def load(
    file: Annotated[Path, typer.Argument(help="A file that dump wrote.")],
    conflict: Annotated[
        Literal["skip", "replace", "new ids"], typer.Option(help="Of what is there already.")
    ] = "skip",
    database: Database = None,
    at: At = None,
    raw: AsJson = False,
) -> None:
    """Bring a dumped file into a namespace; an interrupted load goes on where it stopped."""
    with progress() as bar, MemOS.open(database) as memos:
        task = bar.add_task("loading", total=None)
        report = view_of(memos, at).load(
            file,
            conflict=conflict,
            report=lambda done, every: bar.update(task, completed=done, total=every),
        )
    answer(report, show.fields(plain(report)), raw=raw)


@app.command(name="import")
def import_file(
    file: Annotated[Path, typer.Argument(help="What another memory layer wrote.")],
    format: Annotated[
        str | None, typer.Option(help="langgraph, mem0 or llamaindex. [default: recognised]")
    ] = None,
    database: Database = None,
    at: At = None,
    raw: AsJson = False,
) -> None:
    """Take over a dump of LangGraph's store, an export of mem0, a chat store of LlamaIndex."""
    with opened(database, at, "importing") as view:
        report = view.import_file(file, format=format)
    words = f"{len(report.cubes)} new cube(s) from {report.format}, {report.skipped} skipped"
    answer(report, Text(words), raw=raw)
