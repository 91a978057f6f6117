"""What every statement says first: where it looks, and on whose behalf."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import LiteralString

from memos_core.governance import Caller
from memos_core.namespace import Namespace

# The rows of a view: those of its path and all below it (Namespace.after explains the range).
INSIDE: LiteralString = """
    tenant = %(tenant)s AND namespace >= %(namespace)s::text[] AND namespace < %(after)s::text[]
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
            "tenant": self.namespace.tenant,
            "namespace": list(self.namespace),
            "after": self.namespace.after,
            "caller": self._caller(),
            "user": self.caller.user if self.caller else None,
            **others,
        }

    def _caller(self) -> str | None:
        if self.caller is None:
            return None
        caller = {
            "user": self.caller.user,
            "roles": self.caller.roles,
            "context": dict(self.caller.context),
        }
        return json.dumps(caller)
