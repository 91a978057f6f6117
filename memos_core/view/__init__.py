"""Views: every verb of a memory, bound to a namespace and a caller."""

from memos_core.view.archiving import Archiving
from memos_core.view.caching import Caching
from memos_core.view.channels import Publishing
from memos_core.view.governance import Governing
from memos_core.view.importing import Importing
from memos_core.view.items import Items
from memos_core.view.lifecycle import Living
from memos_core.view.lineage import Composing
from memos_core.view.reading import Reading


class View(Reading, Importing, Items, Living, Composing, Governing, Publishing, Archiving, Caching):
    """Every verb, bound to a namespace and a caller.

    A view writes to its namespace and reads from it and all below it. Each verb is one
    transaction: it happens whole or not at all.
    """


__all__ = ["View"]
