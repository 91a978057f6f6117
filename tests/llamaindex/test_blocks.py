"""What a message holds besides text, kept whole: every type of block that LlamaIndex has."""

from __future__ import annotations

import base64
from io import BytesIO
from pathlib import Path
from typing import Any, get_args

import pytest
from llama_index.core.base.llms import types
from llama_index.core.base.llms.types import (
    AudioBlock,
    CacheControl,
    CachePoint,
    ChatMessage,
    CitableBlock,
    CitationBlock,
    DocumentBlock,
    ImageBlock,
    TextBlock,
    ThinkingBlock,
    ToolCallBlock,
    VideoBlock,
)
from pydantic import BaseModel

from memos_core import View
from memos_llamaindex import MemOSMemory
from memos_llamaindex.window import MEDIA_TOKENS, tokens_of
from tests.llamaindex.scripted import texts, user, words

RAW = bytes(range(256))  # no UTF-8, and no base64
PNG = b"\x89PNG\r\n\x1a\n" + RAW
BLOCKS = {
    "text": TextBlock(text="Look!"),
    "image-bytes": ImageBlock(image=PNG, detail="low", image_mimetype="image/png"),
    "image-base64": ImageBlock(image=base64.b64encode(PNG)),
    "image-url": ImageBlock(url="https://example.org/cat.png"),
    "audio": AudioBlock(audio=RAW, format="mp3"),
    "audio-url": AudioBlock(url="https://example.org/cat.mp3"),
    "video": VideoBlock(video=RAW, video_mimetype="video/mp4", fps=24),
    "video-url": VideoBlock(url="https://example.org/cat.mp4"),
    "document": DocumentBlock(data=RAW, title="Cats", document_mimetype="application/pdf"),
    "document-url": DocumentBlock(url="https://example.org/cat.pdf"),
    "cache": CachePoint(cache_control=CacheControl(type="ephemeral", ttl="5m")),
    "thinking": ThinkingBlock(
        content="Hm.", num_tokens=7, additional_information={"signature": "s"}
    ),
    "call": ToolCallBlock(tool_call_id="c1", tool_name="weather", tool_kwargs={"in": ["Oslo"]}),
    "call-text": ToolCallBlock(tool_name="weather", tool_kwargs='{"in": "Oslo"}'),
    "citable": CitableBlock(
        title="Cats", source="a book", content=[TextBlock(text="Cats purr."), ImageBlock(image=PNG)]
    ),
    "citable-document": CitableBlock(title="C", source="s", content=[DocumentBlock(data=RAW)]),
    "citation": CitationBlock(
        cited_content="Cats purr.", source="a book", title="Cats", additional_location_info={"p": 7}
    ),
}


@pytest.fixture
def memory(ann: View) -> MemOSMemory:
    return MemOSMemory.from_defaults(memos=ann, session_id="s1", tokenizer_fn=words, k=0)


def said_of(block: Any) -> ChatMessage:
    role = "assistant" if isinstance(block, (ThinkingBlock, ToolCallBlock)) else "user"
    return ChatMessage(role=role, blocks=[TextBlock(text="Here:"), block])


def test_every_type_of_block_is_tried():
    union, _ = get_args(types.ContentBlock)
    assert set(get_args(union)) == {type(block) for block in BLOCKS.values()}


@pytest.mark.parametrize("block", BLOCKS.values(), ids=BLOCKS)
def test_a_block_comes_back_whole(memory: MemOSMemory, call, block: Any):
    call(memory, "put_messages", [user("Hello."), said_of(block)])
    assert call(memory, "get") == call(memory, "get_all") == [user("Hello."), said_of(block)]
    for _ in range(2):  # said again, it is the same
        call(memory, "set", call(memory, "get_all"))
    assert call(memory, "get_all") == [user("Hello."), said_of(block)]


MEDIA = {
    "image": (ImageBlock, "image"),
    "audio": (AudioBlock, "audio"),
    "video": (VideoBlock, "video"),
    "document": (DocumentBlock, "data"),
}


@pytest.mark.parametrize("kind", MEDIA)
def test_a_stream_of_bytes_is_kept_as_bytes(memory: MemOSMemory, call, kind: str):
    block, field = MEDIA[kind]
    stream = BytesIO(RAW)
    stream.seek(7)
    quoted = CitableBlock(title="C", source="s", content=[DocumentBlock(data=BytesIO(RAW))])
    call(memory, "put", ChatMessage(role="user", blocks=[block(**{field: stream}), quoted]))
    kept, cited = call(memory, "get_all")[0].blocks
    assert getattr(kept, f"resolve_{kind}")().read() == RAW
    assert cited.content[0].resolve_document().read() == RAW
    assert stream.tell() == 7


@pytest.mark.parametrize("kind", MEDIA)
def test_a_file_that_is_gone_leaves_the_rest_of_its_message(
    memory: MemOSMemory, call, tmp_path: Path, kind: str
):
    path = tmp_path / "cat.bin"
    path.write_bytes(RAW)
    block, _ = MEDIA[kind]
    said = [TextBlock(text="Look!"), block(path=str(path)), BLOCKS["image-url"]]
    call(memory, "put_messages", [user("Hello."), ChatMessage(role="user", blocks=said)])
    assert getattr(call(memory, "get_all")[1].blocks[1], f"resolve_{kind}")().read() == RAW
    path.unlink()
    assert call(memory, "get_all")[1].blocks == [said[0], said[2]]
    assert texts(call(memory, "get")) == ["Hello.", "Look!"]


def test_a_call_outlives_the_file_beside_it(memory: MemOSMemory, tmp_path: Path):
    path = tmp_path / "cat.png"
    path.write_bytes(PNG)
    blocks = [ImageBlock(path=path), BLOCKS["call"]]
    memory.put(ChatMessage(role="assistant", blocks=blocks, additional_kwargs={"id": 7}))
    path.unlink()
    (kept,) = memory.get_all()
    assert BLOCKS["call"] in kept.blocks
    assert kept.additional_kwargs == {"id": 7}


def test_a_block_of_another_version_leaves_the_rest(memory: MemOSMemory, ann: View):
    memory.put(ChatMessage(role="user", blocks=[TextBlock(text="Look!"), BLOCKS["image-url"]]))
    (message,) = ann.messages()
    blocks = [{"block_type": "scent", "scent": "roses"}, *message.extra["llamaindex"]["blocks"]]
    whole = {**message.extra["llamaindex"], "blocks": blocks}
    ann.ingest([{"role": "user", "content": "Look!", "llamaindex": whole}], session="s2")
    other = MemOSMemory.from_defaults(memos=ann, session_id="s2")
    assert other.get_all() == memory.get_all()


class Call(BaseModel):
    id: str
    data: bytes


def test_objects_beside_a_message_are_kept_as_json(memory: MemOSMemory, call):
    kwargs = {"tool_calls": [Call(id="c1", data=b"abc")], "raw": b"abc"}
    call(memory, "put", ChatMessage(role="assistant", content="", additional_kwargs=kwargs))
    (kept,) = call(memory, "get_all")
    assert kept.additional_kwargs["tool_calls"][0]["id"] == "c1"
    assert kept.additional_kwargs["raw"] == base64.b64encode(b"abc").decode()


@pytest.mark.parametrize(
    ("name", "most"),
    [
        ("image-bytes", MEDIA_TOKENS),
        ("audio", MEDIA_TOKENS),
        ("video", MEDIA_TOKENS),
        ("document", MEDIA_TOKENS),
        ("citable", MEDIA_TOKENS + 20),
        ("citable-document", MEDIA_TOKENS + 20),
        ("citation", 20),
        ("thinking", 20),
        ("call", 20),
    ],
)
def test_a_block_has_a_price_that_is_not_of_its_bytes(name: str, most: int):
    def pieces(text: str) -> list[str]:
        return [text[at : at + 8] for at in range(0, len(text), 8)]

    message = ChatMessage(role="user", blocks=[BLOCKS[name]])
    assert most - 20 <= tokens_of(message, pieces) <= most
    assert tokens_of(message, pieces) > 0


def test_calls_in_either_place_have_a_price():
    arguments = "word " * 50
    old = {"tool_calls": [{"id": "c1", "function": {"name": "f", "arguments": arguments}}]}
    new = ToolCallBlock(tool_call_id="c1", tool_name="f", tool_kwargs={"x": arguments})
    for message in (
        ChatMessage(role="assistant", content="", additional_kwargs=old),
        ChatMessage(role="assistant", blocks=[new]),
    ):
        assert tokens_of(message, words) > 50


@pytest.mark.parametrize("text", ["a\x00b", "a\ud800b", "\udfff"])
@pytest.mark.parametrize("place", ["text", "thinking", "call", "kwargs"])
def test_what_no_database_keeps_is_replaced_everywhere(
    memory: MemOSMemory, call, text: str, place: str
):
    message = ChatMessage(
        role="assistant",
        blocks=[
            TextBlock(text=text if place == "text" else "Hm."),
            ThinkingBlock(content=text if place == "thinking" else "Hm."),
            ToolCallBlock(tool_name="f", tool_kwargs={"x": text} if place == "call" else {}),
        ],
        additional_kwargs={"note": text} if place == "kwargs" else {},
    )
    call(memory, "put_messages", [user("Hello."), message])
    kept = call(memory, "get")[1]
    assert "\ufffd" in str(kept.model_dump())
    assert text not in str(kept.model_dump())
    assert [block.block_type for block in kept.blocks] == ["text", "thinking", "tool_call"]
