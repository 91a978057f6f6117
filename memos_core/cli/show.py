"""Answers for a person's eyes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from memos_core.channel import SyncReport
from memos_core.cube import MemCube
from memos_core.governance import Grant
from memos_core.hit import Event, ForgetReport, Hit, Stats
from memos_core.retention import SweepReport

_BAR = 12  # cells of a full score


def hits(found: Sequence[Hit]) -> RenderableType:
    """Show hits, the best first: score, both signals, who said it when, and its id."""
    if not found:
        return Text("nothing found", style="dim")
    return Group(*(_hit(place, hit) for place, hit in enumerate(found, 1)))


def cube(one: MemCube) -> RenderableType:
    """Show a cube with the parts of its header that say something."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", justify="right")
    table.add_column(overflow="fold")
    for name, value in _header(one):
        table.add_row(name, Text(value))
    return table


def history(versions: Sequence[MemCube]) -> RenderableType:
    """Show the versions of a cube, the oldest first."""
    table = Table(box=None, header_style="dim", pad_edge=False)
    table.add_column("version", justify="right")
    table.add_column("recorded", no_wrap=True)
    table.add_column("state", no_wrap=True)
    table.add_column("text", overflow="fold")
    for version in versions:
        restored = version.provenance.restored_from
        note = f"  (restored from {restored})" if restored else ""
        table.add_row(
            str(version.version),
            _time(version.updated_at),
            version.state,
            Text(version.text + note),
        )
    return table


def events(log: Sequence[Event]) -> RenderableType:
    """Show the audit log, the latest first."""
    if not log:
        return Text("nothing was logged", style="dim")
    table = Table(box=None, header_style="dim", pad_edge=False)
    for column in ("at", "what", "by", "cubes", "details"):
        table.add_column(column, overflow="fold", no_wrap=column == "at")
    for event in log:
        details = ", ".join(f"{key} {value}" for key, value in event.details.items())
        table.add_row(
            _time(event.at),
            event.kind,
            Text(event.user or "-"),
            _ids([str(one) for one in event.cube_ids]),
            details,
        )
    return table


def forgotten(report: ForgetReport) -> RenderableType:
    """Show what was erased."""
    return Text(
        f"forgot {len(report.cubes)} cube(s)"
        + (f" and {len(report.derived)} made of them" if report.derived else "")
        + f" in {report.versions} version(s) "
        f"and {len(report.message_ids)} message(s) they came from"
    )


def stats(counted: Stats) -> RenderableType:
    """Show how much there is."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", justify="right")
    table.add_column()
    table.add_row("cubes", f"{counted.cubes:,} in {counted.versions:,} versions")
    if counted.indexed is not None:
        table.add_row("in its search index", f"{counted.indexed:,}")
    table.add_row("messages", f"{counted.messages:,}")
    table.add_row("events", f"{counted.events:,}")
    table.add_row("database", f"{counted.bytes / 1e6:,.1f} MB")
    model = f"{counted.embedder} ({counted.width} dimensions)" if counted.embedder else "none yet"
    table.add_row("embedder", model)
    return table


def _hit(place: int, hit: Hit) -> RenderableType:
    filled = round(max(0.0, min(1.0, hit.score)) * _BAR)
    head = Text.assemble(
        (f"{place:>2} ", "bold"),
        ("━" * filled, "green"),
        ("━" * (_BAR - filled), "bright_black"),
        (f" {hit.score:.3f}  ", "bold"),
        (origin(hit.cube), "cyan"),
    )
    foot = Text(f"{_signals(hit)}  {hit.cube.id}", style="dim")
    body = Group(Text(hit.text), foot, *_context(hit))
    return Group(head, Padding(body, (0, 0, 0, 3)))


def _signals(hit: Hit) -> str:
    ranks = {"dense": hit.dense_rank, "lexical": hit.lexical_rank}
    shares = [
        f"{name} {share:.2f}" + (f" (#{rank})" if (rank := ranks.get(name)) else "")
        for name, share in hit.reasons.items()
    ]
    return "  ".join([*shares, *(["by index"] if hit.route == "index" else [])])


def _context(hit: Hit) -> list[Text]:
    return [
        Text(f"  {turn.name or turn.role}: {turn.content}", style="dim italic")
        for turn in hit.context
        if turn.id not in hit.message_ids
    ]


def origin(one: MemCube) -> str:
    """Return who said it, when, and where, in a few words."""
    said = one.provenance
    parts = [
        said.speaker or said.role or said.created_by,
        f"{said.said_at:%-d %b %Y}" if said.said_at else None,
        said.session,
        ", ".join(said.message_ids) or said.source,
        f"version {one.version}" if one.version > 1 else None,
    ]
    return " · ".join(part for part in parts if part) or f"stored {_time(one.created_at)}"


def _header(one: MemCube) -> list[tuple[str, str]]:
    governance, usage = one.governance, one.usage
    rows = [
        ("id", str(one.id)),
        ("text", one.text),
        ("from", origin(one)),
        ("namespace", "/".join(one.namespace)),
        ("kind", f"{one.kind}, {one.semantic_type}, {one.state}"),
        ("version", f"{one.version}, recorded {_time(one.updated_at)}"),
        ("tags", ", ".join(one.tags)),
        ("metadata", ", ".join(f"{key}: {value}" for key, value in one.metadata.items())),
        ("valid", _period(one.valid_from, one.valid_to)),
        ("owner", governance.owner or ""),
        ("expires", _time(governance.expires_at) if governance.expires_at else ""),
        ("sensitivity", ", ".join(governance.sensitivity)),
        ("reads", str(usage.reads) if usage else ""),
    ]
    return [(name, value) for name, value in rows if value]


def _period(start: datetime | None, end: datetime | None) -> str:
    since = f"from {_time(start)}" if start else ""
    until = f"to {_time(end)}" if end else ""
    return f"{since} {until}".strip()


def _time(moment: datetime) -> str:
    return f"{moment.astimezone():%Y-%m-%d %H:%M:%S}"


def _ids(names: Sequence[str]) -> str:
    return f"{len(names)} cubes" if len(names) > 1 else "".join(names)


def states(cubes: Sequence[MemCube]) -> RenderableType:
    """Show in which states cubes are now."""
    return Group(*(Text(f"{one.id}  {one.state}  {one.text}") for one in cubes))


def swept(report: SweepReport) -> RenderableType:
    """Show what a sweep did."""
    return Text(
        f"ended {len(report.expired)} whose time was over and {len(report.ended)} from the "
        f"archive, archived {len(report.archived)}, and ended {len(report.invalidated)} "
        "that were made of them"
    )


def synced(report: SyncReport) -> RenderableType:
    """Show what a sync brought."""
    return Text(
        f"{len(report.added)} new, {len(report.updated)} changed, "
        f"{len(report.withdrawn)} withdrawn, {report.withheld} held back"
    )


def grants(found: Sequence[Grant]) -> RenderableType:
    """Show who may do what."""
    if not found:
        return Text("nothing was granted", style="dim")
    table = Table(box=None, header_style="dim", pad_edge=False)
    for column in ("who", "may", "with", "while", "until", "id"):
        table.add_column(column, overflow="fold")
    for one in found:
        about = f"cube {one.cube}" if one.cube else f"tag {one.tag}" if one.tag else "all"
        mine = f" of {one.owner}" if one.owner else ""
        table.add_row(
            one.user or (f"role {one.role}" if one.role else "everyone"),
            ", ".join(one.rights),
            f"{about}{mine} in {'/'.join(one.namespace)}",
            ", ".join(f"{key} {value}" for key, value in one.condition.items()),
            _time(one.expires_at) if one.expires_at else "",
            str(one.id),
        )
    return table


def fields(values: Mapping[str, object]) -> RenderableType:
    """Show names and values."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", justify="right")
    table.add_column(overflow="fold")
    for name, value in values.items():
        table.add_row(name, Text(str(value)))
    return table
