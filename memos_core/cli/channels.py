"""Commands about what tenants publish and take."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Group
from rich.text import Text

from memos_core.cli import show
from memos_core.cli.options import Filter, Licence, Tags, Until, Watermark, json_object
from memos_core.cli.program import Answer, section
from memos_core.view import View

Channel = Annotated[str, typer.Argument(help="The channel's name.")]
command = section("Channels")


@command("publishing")
def publish(
    view: View,
    channel: Channel,
    tag: Tags = None,
    where: Filter = "{}",
    licence: Licence = None,
    watermark: Watermark = None,
    tenant: Annotated[
        list[str] | None, typer.Option(help="Only to this tenant; repeatable.")
    ] = None,
    until: Until = None,
) -> Answer:
    """Offer the cubes that match, now and later, to other tenants."""
    made = view.publish(
        channel,
        tags=tag or (),
        filter=json_object(where, option="--filter"),
        licence=licence,
        watermark=watermark,
        tenants=tenant or None,
        until=until,
    )
    return made, Text(f"published in {made.channel}: {made.id}")


@command("withdrawing")
def withdraw(
    view: View, id: Annotated[str, typer.Argument(help="The id of a publication.")]
) -> Answer:
    """Take back an offer; its copies go with the subscribers' next sync."""
    done = view.withdraw(id)
    words = "withdrawn" if done else "nothing stands under this id that may be withdrawn"
    return {"withdrawn": done}, Text(words)


@command("subscribing")
def subscribe(
    view: View,
    channel: Channel,
    publisher: Annotated[str | None, typer.Option(help="Only of this tenant.")] = None,
    tag: Tags = None,
    where: Filter = "{}",
) -> Answer:
    """Take what others publish in a channel, with sync."""
    conditions = json_object(where, option="--filter")
    made = view.subscribe(channel, publisher=publisher, tags=tag or (), filter=conditions)
    return made, Text(f"subscribed to {made.channel}: {made.id}")


@command("unsubscribing")
def unsubscribe(
    view: View, id: Annotated[str, typer.Argument(help="The id of a subscription.")]
) -> Answer:
    """Take no more, and forget the copies."""
    report = view.unsubscribe(id)
    return report, show.synced(report)


@command("reading")
def channels(view: View) -> Answer:
    """Show what a namespace publishes, and what it takes."""
    offered, taken = view.publications(), view.subscriptions()
    lines = [
        *(f"publishes in {one.channel}: {one.id}" for one in offered),
        *(f"takes {one.channel}: {one.id}" for one in taken),
    ]
    shown = Group(*map(Text, lines or ["it publishes nothing and takes nothing"]))
    return {"publications": offered, "subscriptions": taken}, shown


@command("synchronizing")
def sync(view: View) -> Answer:
    """Bring a namespace up to date with what it takes."""
    report = view.sync()
    return report, show.synced(report)
