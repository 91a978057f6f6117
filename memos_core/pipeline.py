"""Several verbs as one transaction (the paper's Memory Pipeline)."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from uuid import UUID

from memos_core.cube import MemCube
from memos_core.diff import Diff, diff
from memos_core.engine import Engine
from memos_core.errors import InvalidInput
from memos_core.governance import Caller
from memos_core.namespace import Namespace
from memos_core.store.statements import pipelines
from memos_core.store.statements.scope import Scope
from memos_core.view import View


class Pipeline(View):
    """A view whose verbs are one transaction; ``effects`` tells what a dry run would have done."""

    effects: Sequence[Diff] = ()

    def at(self, *labels: str, caller: Caller | None = None) -> View:
        """Return a view of another namespace whose verbs are part of this pipeline."""
        return View(self.engine, Namespace(*labels), caller or self.caller)


@contextmanager
def pipeline(
    engine: Engine, namespace: Namespace, caller: Caller | None, *, dry_run: bool
) -> Generator[Pipeline]:
    """Run a block's verbs in one transaction; see ``MemOS.pipeline``."""
    if engine.in_pipeline:
        raise InvalidInput("this is a pipeline already, and there is none in another")
    scope = Scope(namespace=namespace, caller=caller)
    after: Mapping[UUID, MemCube | None] = {}
    with engine.together() as (inside, transaction):
        piped = Pipeline(inside, namespace, caller)
        yield piped
        if dry_run and transaction.failure is None:
            after = transaction.run(pipelines.touched(scope))
            transaction.roll_back()
        elif transaction.failure is None:
            transaction.run(pipelines.durable())
    before = engine.run(pipelines.cubes(scope, list(after))) if after else {}
    piped.effects = [
        diff(before.get(cube), now) for cube, now in after.items() if now or before.get(cube)
    ]
