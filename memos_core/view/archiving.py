"""The verbs that write a view to a file, and read it back (the paper's MemDumper and MemLoader)."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Literal

from memos_core.checks import checked_label
from memos_core.errors import NotPermitted
from memos_core.hit import DumpReport, LoadReport
from memos_core.rules import Rules
from memos_core.sensitivity import Action, Sensitive
from memos_core.store.statements.archive import Extent
from memos_core.view.bound import Bound

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import (
        Ed25519PrivateKey,
        Ed25519PublicKey,
    )

    from memos_core.archive import Limits


class Archiving(Bound):
    """The verbs that write a view to a file, and read it back."""

    def dump(
        self,
        path: str | os.PathLike[str],
        *,
        events: bool = False,
        history: bool = True,
        messages: bool = True,
        sensitive: Mapping[Sensitive, Action] | None = None,
        watermark: str | None = None,
        licence: str | None = None,
        signing_key: Ed25519PrivateKey | None = None,
        overwrite: bool = False,
        report: Callable[[int, int], None] | None = None,
    ) -> DumpReport:
        """Write all that this view holds to one file, as it is at one moment, beside writers.

        The file has cubes with their vectors, earlier versions and what has ended (``history``),
        the log of ``messages``, lineage, grants, rules, and on request the audit log
        (``events``). A caller gets what he may read of it, of what was made of others what stands,
        and no rules. The file is described in docs/archive-format.md; it is readable by its owner
        alone, and is there whole or not at all.

        ``sensitive`` is what is done about e-mail addresses, secrets and the like, beside the rules
        about export; the stricter of two actions is taken. What is redacted is so in texts,
        metadata and messages, in all versions, and its vectors are made of what is left; names by
        which rights are known, ids and tags stay. ``watermark`` and ``licence`` stand in the file's
        header, and the watermark in each cube's provenance. A ``signing_key`` lets others verify
        who wrote it. ``report`` is given the number of records written and that of all.

        The log has it as ``exported``.

        Raises:
            NotPermitted: something in it may not be exported; there is no file.
            ArchiveNotWritten: the file exists, or cannot be written; there is none.
        """
        from memos_core.view import dumping  # noqa: PLC0415 archives are slow to load

        asked = Rules(export=sensitive or {}).export
        order = dumping.Order(
            path=path,
            events=events,
            messages=messages,
            sensitive=asked,
            watermark=checked_label(watermark, what="watermark"),
            licence=checked_label(licence, what="licence"),
            signing_key=signing_key,
            overwrite=overwrite,
            report=report or _ignore,
        )
        return dumping.dump(self.engine, Extent(scope=self._scope, history=history), order)

    def load(
        self,
        path: str | os.PathLike[str],
        *,
        conflict: Literal["skip", "replace", "new ids"] = "skip",
        public_key: Ed25519PublicKey | None = None,
        limits: Limits | None = None,
        report: Callable[[int, int], None] | None = None,
    ) -> LoadReport:
        """Load an archive into this namespace: whole, and visible at once, or not at all.

        All of the file is verified first, with ``public_key`` also that its owner signed it. What
        has to be stored is then put aside part by part, and made visible in one transaction: an
        interrupted load goes on where it stopped when it is called again within a day.

        Where there is a cube of the same id already, ``skip`` keeps it with its history and its
        grants, ``replace`` erases it first, and what was made of it ends; ``new ids`` gives every
        cube a new one. Messages that are here stay as they are, forgotten ones too, and cubes that
        came from these are left out. So is what was made of cubes that say something else here.
        A bundle's id is bound to its place and its name.

        The rules in force here hold for all that is loaded, as if it were written now: what they
        hide is hidden, with a new vector, cubes are marked with what was found in them, and a load
        counts as one write. The archive's own rules come into force where there are none, with
        ``replace`` also in place of others.

        Vectors are those of the file where they are of this database's model; else texts are
        embedded anew. ``limits`` are those of ``memos_core.archive``. ``report`` is given the
        number of records put aside and that of all. The log has it as ``imported``.

        Raises:
            NotPermitted: a caller asks; owners and grants come from the file.
            ArchiveInvalid: the file is damaged, altered or hostile; nothing was loaded.
            ArchiveNotRead: the file cannot be read.
            CubeFrozen: a frozen cube would be replaced; nothing was loaded.
            CubeExists: a cube of another namespace would be replaced; nothing was loaded.
            SensitiveText, LimitExceeded: the rules in force here refuse it; nothing was loaded.
            RulesChanged: they changed again and again meanwhile; nothing was loaded.
        """
        if self.caller is not None:
            raise NotPermitted(
                f"{self.caller.user} may not load archives, which say who owns what: open the "
                "view without a caller"
            )
        from memos_core.archive.limits import STANDARD  # noqa: PLC0415 archives are slow to load
        from memos_core.view import loading  # noqa: PLC0415

        return loading.load(
            self.engine,
            self._scope,
            path,
            conflict=conflict,
            public_key=public_key,
            limits=limits or STANDARD,
            report=report or _ignore,
        )


def _ignore(_done: int, _everything: int) -> None:
    """Report to nobody."""
