"""The verbs that make a cube of others, and tell what it was made of."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from uuid import UUID

from uuid_utils.compat import uuid7

from memos_core import fusion
from memos_core.checks import (
    checked_id,
    checked_key,
    checked_many,
    checked_metadata,
    checked_priority,
    checked_tags,
)
from memos_core.cube import MemCube
from memos_core.errors import InvalidInput
from memos_core.fusion import ChatFn
from memos_core.lineage import Lineage, Relation, bundle_id
from memos_core.store.statements import lineage
from memos_core.view.making import Making, Plan, common


class Composing(Making):
    """The verbs that make a cube of others, and tell what it was made of.

    Such a cube is served while each of its parents stands, says what it said then, and may be read
    by the caller. Where one is changed it ends; where one is forgotten it is forgotten as well.
    """

    def derive(
        self,
        text: str,
        ids: UUID | str | Iterable[UUID | str],
        *,
        tags: Iterable[str] = (),
        metadata: Mapping[str, object] | None = None,
        semantic_type: str = "fact",
        source: str | None = None,
        priority: int = 0,
    ) -> MemCube:
        """Remember a text that you made of other cubes: a summary, a conclusion, a translation.

        It ends when the first of them does, and is as sensitive as all of them.

        Raises:
            InvalidText, InvalidInput: it cannot be stored.
            CubeNotFound, NotPermitted: one of them is not there, or may not be used.
        """
        said = self._text(text)
        labels = checked_tags(tags)
        values = checked_metadata(metadata)
        name = checked_key(semantic_type, what="semantic_type")
        weight = checked_priority(priority)

        def plan(parents: Sequence[MemCube]) -> Plan:
            header = self._header(
                parents, tags=labels, metadata=values, semantic_type=name, priority=weight
            )
            return Plan(
                id=uuid7(),
                text=said,
                header=header,
                relation=Relation.DERIVED,
                kind="derived",
                source=source,
            )

        return self._make(ids, plan)

    def compose(
        self,
        ids: Iterable[UUID | str],
        name: str,
        *,
        tags: Iterable[str] = (),
        metadata: Mapping[str, object] | None = None,
        priority: int = 0,
    ) -> MemCube:
        """Make an ordered bundle of cubes, which is found and read as one; they stay as they are.

        Its text is its name and what they say, in the order given. Each owner's name stands for
        one bundle in a namespace: to compose it again replaces it, unless nothing has changed, and
        brings it back from the archive. Its history is that of its members.

        Raises:
            InvalidInput: no cubes, or a bundle that would be in itself.
            InvalidText: it would be longer than ``Settings.max_text``.
            CubeNotFound, NotPermitted: one of them is not there, or may not be used.
            CubeFrozen: the bundle of this name is.
        """
        title = self._text(name, what="name")
        labels, values = checked_tags(tags), checked_metadata(metadata)
        weight = checked_priority(priority)

        def plan(parents: Sequence[MemCube]) -> Plan:
            text = "\n".join([title, *(parent.text for parent in parents)])
            header = self._header(
                parents,
                tags=labels,
                metadata={**values, "bundle": title},
                semantic_type="bundle",
                priority=weight,
            )
            return Plan(
                id=bundle_id(self.namespace, title, header.owner),
                text=self._text(text, what=f"the bundle {title!r}"),
                header=header,
                relation=Relation.COMPOSED,
                kind="composed",
            )

        return self._make(ids, plan)

    def fuse(self, ids: Iterable[UUID | str], *, chat: ChatFn | None = None) -> MemCube:
        """Make one cube of several, which speaks for them: they are merged, and found no more.

        ``chat`` is a language model, ``messages -> text``, that writes what they say; without one
        it is their sentences in the order in which they became true, each once. The cube has all
        their tags and sensitivities, their metadata (of two values the later), the highest of
        their priorities, and the times in which all of them are true. Whoever may not read it
        finds them as before, and so does everybody once it ends.

        Raises:
            InvalidInput: fewer than two cubes, or no time at which all of them are true.
            InvalidText: the model wrote nothing, or too much.
            CubeNotFound, NotPermitted, CubeFrozen, IllegalTransition: one of them is not there, may
                not be used and changed, is frozen, or is in the archive.
        """
        wanted = checked_many(ids)
        if len(wanted) < 2:  # noqa: PLR2004 one is itself
            raise InvalidInput("fuse takes two cubes or more")

        def plan(parents: Sequence[MemCube]) -> Plan:
            ordered = fusion.in_order(parents)
            if chat is None:
                text = fusion.fused_by_rule([parent.text for parent in ordered])
            else:
                text = fusion.fused_by_model(ordered, chat)
            header = self._header(
                ordered,
                tags=tuple(dict.fromkeys(tag for cube in ordered for tag in cube.tags)),
                metadata=fusion.common_metadata(ordered),
                semantic_type=common([cube.semantic_type for cube in ordered]) or "fact",
                priority=max(cube.governance.priority for cube in ordered),
            )
            return Plan(
                id=uuid7(),
                text=self._text(text, what="the fused text"),
                header=header,
                relation=Relation.MERGED,
                kind="fused",
                source="rule" if chat is None else "model",
            )

        return self._make(wanted, plan)

    def relate(self, id: UUID | str, relation: Relation | str, other: UUID | str) -> None:
        """Write down that a cube ``contradicts`` another, or is ``about`` it; both stand.

        Raises:
            InvalidInput: another relation, or one cube.
            CubeNotFound, NotPermitted: one is not there, or the first may not be changed.
        """
        if relation not in (Relation.CONTRADICTS, Relation.ABOUT):
            raise InvalidInput(
                f"relate says 'contradicts' or 'about', not {relation!r}: what holds another's "
                "words is made with derive, compose or fuse"
            )
        one, two = checked_id(id), checked_id(other)
        if one == two:
            raise InvalidInput("a cube is not related to itself")
        there = self.engine.run(lineage.relate(self._scope, one, two, Relation(relation)))
        if missing := [cube for cube in (one, two) if cube not in there]:
            self._missing(missing, right="write")
        if not there[one]:
            self._denied([one], "write")

    def provenance(self, id: UUID | str) -> Lineage:
        """Return what a cube was made of, step by step, to the messages that said it.

        Of a cube that has ended too; what was forgotten is in no answer.

        Raises:
            CubeNotFound: no such cube in this view.
        """
        cube = checked_id(id)
        return self.engine.run(lineage.provenance(self._scope, cube)) or self._missing(
            [cube], right="read"
        )
