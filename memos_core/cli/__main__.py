"""So that ``python -m memos_core.cli`` is ``memos``."""

from memos_core.cli import main

main()
