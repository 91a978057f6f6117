"""The command ``memos``."""

from memos_core.cli.commands import main

__all__ = ["main"]
