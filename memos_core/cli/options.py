"""The options that several commands have."""

from __future__ import annotations

import json
from typing import Annotated, cast

import typer

from memos_core.errors import InvalidInput

Database = Annotated[
    str | None,
    typer.Option(
        "--database",
        "-d",
        envvar="MEMOS_DATABASE",
        help="A postgresql:// URL, or the folder of a private server.",
        show_default="your own folder",
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
Filter = Annotated[
    str,
    typer.Option(
        "--filter", show_default=False, help='What metadata must be: {"year": {"$gte": 2020}}.'
    ),
]
Licence = Annotated[str | None, typer.Option(help="The licence under which it is given.")]
Watermark = Annotated[str | None, typer.Option(help="A mark of each copy.")]
Expected = Annotated[int | None, typer.Option(help="Refuse if it is at another version by now.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Even if there is such a file.")]
# Times are read by the verbs: as ISO 8601, in this machine's zone where they name none.
AsOf = Annotated[str | None, typer.Option(metavar="TIME", help="What was known then.")]
Since = Annotated[str | None, typer.Option(metavar="TIME", help="Not before.")]
Before = Annotated[str | None, typer.Option("--until", metavar="TIME", help="Before.")]
Until = Annotated[str | None, typer.Option(metavar="TIME", help="Until then.")]


def json_object(text: str, *, option: str) -> dict[str, object]:
    """Read an option whose value is a JSON object.

    Raises:
        InvalidInput: it is none.
    """
    try:
        value = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise InvalidInput(
            f"""{option} is a JSON object such as '{{"year": 2020}}', not {text!r}: {error}"""
        ) from error
    if not isinstance(value, dict):
        raise InvalidInput(f"""{option} is a JSON object such as '{{"year": 2020}}', not {text}""")
    return cast("dict[str, object]", value)
