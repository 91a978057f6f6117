"""The command ``memos``."""

from memos_core.cli import commands, governed  # they add themselves to it
from memos_core.cli.options import app, main

__all__ = ["app", "commands", "governed", "main"]
