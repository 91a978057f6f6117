"""What every statement says first: where it looks, and on whose behalf."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import LiteralString

from memos_core.governance import Caller
from memos_core.namespace import Namespace
from memos_core.store.statement import AskedTenant, Asker, Tenant

# The rows of a view: those of its path and all below it (Namespace.past explains the range).
INSIDE: LiteralString = """
    tenant = %(tenant)s AND trail >= %(trail)s::text AND trail < %(past)s::text
"""
# The same of rows that are looked up by their ids: no index for the planner to prefer, which holds
# generic plans to be no worse for many ids and is wrong.
LIES_INSIDE: LiteralString = """
    tenant = %(tenant)s AND (trail >= %(trail)s::text AND trail < %(past)s::text) IS TRUE
"""

# A read's event may be lost in a crash, so a read need not wait for the disk. A setting made inside
# a statement is in force at that statement's commit.
LAZY_COMMIT: LiteralString = "(SELECT set_config('synchronous_commit', 'off', true)) AS lazy"


@dataclass(frozen=True, kw_only=True, slots=True)
class Scope:
    """A namespace and who asks in it: the parameters that all statements share."""

    namespace: Namespace
    caller: Caller | None = None

    def parameters(self, **others: object) -> dict[str, object]:
        """Return the shared parameters joined with a statement's own."""
        return {
            "tenant": Tenant(self.namespace.tenant),
            "namespace": list(self.namespace),
            "after": self.namespace.after,
            "trail": self.namespace.trail,
            "past": self.namespace.past,
            "caller": self._caller(),
            "user": self.caller.user if self.caller else None,
            **others,
        }

    def reading(self, **others: object) -> dict[str, object]:
        """Return the same for a statement that reads what the caller may, and no more.

        There the database holds it to that, too, where there is a wall (decision 0012).
        """
        if self.caller is None:
            return self.parameters(**others)
        return self.parameters(**others) | {"tenant": AskedTenant(self.namespace.tenant)}

    def _caller(self) -> Asker | None:
        if self.caller is None:
            return None
        caller = {
            "user": self.caller.user,
            "roles": self.caller.roles,
            "context": dict(self.caller.context),
        }
        return Asker(json.dumps(caller))
