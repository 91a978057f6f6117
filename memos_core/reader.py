"""The MemReader: from what was said to cubes.

Without a language model it keeps each turn word for word, with its speaker and its date.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, cast

from uuid_utils.compat import uuid7

from memos_core.checks import checked_key, checked_metadata, checked_time
from memos_core.cube import Provenance
from memos_core.errors import InvalidInput, InvalidText
from memos_core.message import Message
from memos_core.settings import Settings
from memos_core.store.statements.cubes import Draft, Header
from memos_core.text import shortened, storable, unstorable
from memos_core.words import Words, words_of

_READ_ROLES = ("user", "assistant")
_KNOWN = ("id", "role", "name", "content", "created_at", "session", "metadata")


def messages_from(
    turns: object, *, session: str | None, settings: Settings, repair: bool = False
) -> list[Message]:
    """Read chat messages in role/content form; a turn without an id gets a new one.

    A bare text is a user's. ``content`` is a string or a list of parts, of which the text parts
    count. Keys that are not ours are kept as the message's ``extra``. With ``repair``, what cannot
    be stored of a text or a value is replaced, and a text that is too long is cut.

    Raises:
        InvalidInput: something that is no turn, a turn without a role, two different turns under
            one id, a value that cannot be stored.
    """
    several = isinstance(turns, Iterable) and not isinstance(turns, (str, Mapping))
    many = cast("Iterable[object]", turns if several else [turns])
    messages = [
        _message(_repaired(turn, settings) if repair else turn, session, settings) for turn in many
    ]
    first: dict[tuple[str | None, str], Message] = {}
    for message in messages:
        if first.setdefault((message.session, message.id), message) != message:
            raise InvalidInput(f"two different messages have the id {message.id!r}")
    return list(first.values())


def is_readable(message: Message) -> bool:
    """Tell whether cubes are made of a message: what people and assistants said, if anything."""
    return message.role in _READ_ROLES and bool(message.content.strip())


def drafts_from(messages: Sequence[Message], *, settings: Settings) -> Iterator[Draft]:
    """Keep each turn as a cube of its own; one too long for a cube becomes several."""
    for message in messages:
        for part in _parts(message.content, settings.max_text):
            said_at = message.created_at
            provenance = Provenance(
                source="conversation",
                created_by=message.created_by,
                message_ids=(message.id,),
                session=message.session,
                speaker=message.name,
                role=message.role,
                said_at=said_at,
            )
            yield Draft(
                id=uuid7(),
                text=part,
                words=words_in(part, provenance),
                provenance=provenance,
                header=Header(
                    semantic_type="turn",
                    metadata=message.metadata,
                    owner=message.created_by,
                    valid_from=said_at,
                ),
            )


def words_in(text: str, provenance: Provenance) -> Words:
    """Return what lexical search sees of a cube: who said it, on which day, and its text."""
    said_at = provenance.said_at
    day = f"{said_at.day} {said_at:%B %Y}" if said_at else ""
    return words_of(" ".join(part for part in (provenance.speaker, day, text) if part))


def _message(turn: object, session: str | None, settings: Settings) -> Message:
    if isinstance(turn, str):
        turn = {"role": "user", "content": turn}
    if not isinstance(turn, Mapping):
        raise InvalidInput(f"a message is a mapping with role and content, not {turn!r}")
    turn = cast("Mapping[str, Any]", turn)
    role = checked_key(turn.get("role"), what="a message's role")
    id, name = turn.get("id"), turn.get("name")
    return Message(
        id=str(uuid7()) if id is None else checked_key(id, what="a message's id"),
        role=role,
        name=None if name in (None, "") else checked_key(name, what="a message's name"),
        content=_content(turn.get("content"), settings.max_message),
        created_at=checked_time(turn.get("created_at"), what="created_at"),
        session=_session(session if turn.get("session") is None else turn["session"]),
        metadata=checked_metadata(turn.get("metadata")),
        extra=checked_metadata({key: turn[key] for key in turn if key not in _KNOWN}),
    )


def _repaired(turn: object, settings: Settings) -> object:
    if isinstance(turn, str):
        turn = {"role": "user", "content": turn}
    if not isinstance(turn, Mapping):
        return turn
    said = cast("Mapping[str, object]", turn)
    fields = cast("dict[str, object]", storable(said))
    content = _joined(fields.get("content"))
    if isinstance(content, str):
        fields["content"] = shortened(content, settings.max_message)
    return fields | {"created_at": said.get("created_at")}  # a datetime is no JSON, and is right


def _session(session: str | None) -> str | None:
    return None if session is None else checked_key(session, what="session")


def _joined(content: object) -> object:
    if isinstance(content, list):
        return "\n".join(_part_texts(cast("list[object]", content)))
    return "" if content is None else content


def _content(content: object, limit: int) -> str:
    content = _joined(content)
    if not isinstance(content, str):
        raise InvalidText(f"a message's content is text or parts, not {type(content).__name__}")
    if len(content) > limit:
        raise InvalidText(f"a message has {len(content):,} characters, over {limit:,}; split it")
    if problem := unstorable(content):
        raise InvalidText(f"a message's content {problem}")
    return content


def _part_texts(parts: list[object]) -> Iterator[str]:
    for part in parts:
        if isinstance(part, str):
            yield part
        elif isinstance(part, Mapping):
            text = cast("Mapping[str, object]", part).get("text")
            if isinstance(text, str):
                yield text


def _parts(text: str, limit: int) -> Iterator[str]:
    """Split at the last paragraph, line, sentence or word that fits; else anywhere."""
    while len(text) > limit:
        cuts = (text.rfind(mark, 1, limit) + len(mark) for mark in ("\n\n", "\n", ". ", " "))
        cut = next((cut for cut in cuts if cut > limit // 2), limit)
        if text[:cut].strip():
            yield text[:cut]
        text = text[cut:]
    if text.strip():
        yield text
