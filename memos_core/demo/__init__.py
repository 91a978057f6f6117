"""The demo: one conversation remembered, searched, updated, forgotten, and shared by frameworks."""

from memos_core.demo.tour import run

__all__ = ["run"]
