"""The command ``memos``."""

from memos_core.cli import (  # isort: skip  as the help lists their commands
    remembering,
    versions,
    lives,
    lineage,
    governing,
    log,
    files,
    channels,
    database,
)
from memos_core.cli.program import app, main

__all__ = [
    "app",
    "channels",
    "database",
    "files",
    "governing",
    "lineage",
    "lives",
    "log",
    "main",
    "remembering",
    "versions",
]
