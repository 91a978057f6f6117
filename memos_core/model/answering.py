"""Generating answers to prompts whose beginnings are cached."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import torch
from transformers import StoppingCriteria, StoppingCriteriaList

from memos_core.model.architecture import stable_length, takes_positions, text_config
from memos_core.model.decoding import Decoding
from memos_core.model.generation import FinishReason, Generation
from memos_core.model.layout import Layout
from memos_core.model.reading import Task
from memos_core.model.stopping import Clock, StopTexts

if TYPE_CHECKING:
    from transformers import PreTrainedModel
    from transformers.generation.streamers import BaseStreamer


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """How answers are to be made: since when they are waited for, and until ``stopped``."""

    decoding: Decoding
    started: float
    stopped: threading.Event = field(default_factory=threading.Event)
    streamer: BaseStreamer | None = None


@dataclass(frozen=True, kw_only=True)
class Answerer:
    """Runs ``generate`` of transformers on full token ids and a cache of their beginning."""

    model: PreTrainedModel
    layout: Layout

    def answers(self, tasks: Sequence[Task], asked: Asked) -> list[Generation]:
        """Answer prompts, those that begin alike in one pass, in their order."""
        done: dict[int, Generation] = {}
        for places in self._alike(tasks, asked.decoding):
            rows = self._answered([tasks[place] for place in places], asked)
            done.update(zip(places, rows, strict=True))
        return [done[place] for place in range(len(tasks))]

    def _alike(self, tasks: Sequence[Task], decoding: Decoding) -> list[list[int]]:
        """Return the places of tasks that can be one batch: of one cache, and one length.

        Rows are filled up between memory and messages. Where that could be seen, only rows of one
        length go together; and where the longest turns the keys of all.
        """
        even = decoding.reads_prompt or self._sees_filling
        stable = stable_length(text_config(self.model))
        groups: dict[object, list[int]] = {}
        for place, task in enumerate(tasks):
            keys = task.prefix.keys[: task.found.runs]
            length = len(task.prompt.ids)
            turns = stable is not None and length + decoding.max_new_tokens > stable
            groups.setdefault((keys, length if even or turns else 0), []).append(place)
        return list(groups.values())

    @property
    def _sees_filling(self) -> bool:
        """Whether what is masked counts: as distance, as a place in the text, or in a state."""
        config = text_config(self.model)
        types = cast("Sequence[str]", getattr(config, "layer_types", None) or ())
        limits = ("sliding_window", "attention_chunk_size", "window_size")
        return (
            any(one != "full_attention" for one in types)
            or any(getattr(config, name, None) is not None for name in limits)
            or getattr(self.model, "_is_stateful", False)
            or not takes_positions(self.model)
        )

    def _answered(self, tasks: Sequence[Task], asked: Asked) -> list[Generation]:
        decoding, clock = asked.decoding, Clock(asked.started, asked.stopped)
        ids, mask = self._rows(tasks, pad=decoding.given["pad_token_id"])
        stopping: list[StoppingCriteria] = [clock]
        if decoding.ending.texts:
            stopping.append(StopTexts(decoding.ending, ids.shape[1]))
        given = dict(decoding.given)
        if asked.streamer is not None:
            given["streamer"] = asked.streamer
        if (cache := tasks[0].found.cache) is not None:
            given["past_key_values"] = cache.request(len(tasks) * decoding.beams)
        with torch.inference_mode():
            sequences = cast("Any", self.model).generate(
                ids,
                attention_mask=mask,
                stopping_criteria=StoppingCriteriaList(stopping),
                **given,
            )
        said = cast("list[list[int]]", sequences[:, ids.shape[1] :].tolist())
        return [
            self._answer(task, tokens, decoding, clock.ttft_seconds)
            for task, tokens in zip(tasks, said, strict=True)
        ]

    def _rows(self, tasks: Sequence[Task], *, pad: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return ids and mask of rows, each filled up after what is cached."""
        cached = tasks[0].tokens_in_cache
        rows = [list(task.prompt.ids) for task in tasks]
        gaps = [max(map(len, rows)) - len(row) for row in rows]
        ids = [
            row[:cached] + [pad] * gap + row[cached:] for row, gap in zip(rows, gaps, strict=True)
        ]
        mask = [
            [1] * cached + [0] * gap + [1] * (len(row) - cached)
            for row, gap in zip(rows, gaps, strict=True)
        ]
        device = self.model.device
        return torch.tensor(ids, device=device), torch.tensor(mask, device=device)

    def _answer(
        self, task: Task, tokens: list[int], decoding: Decoding, ttft_seconds: float
    ) -> Generation:
        kept, text, ended = decoding.ending.of(tokens)
        cut_short: FinishReason = (
            "length" if len(tokens) == decoding.max_new_tokens else "interrupted"
        )
        cached = task.tokens_in_cache - task.computed
        return Generation(
            text=text,
            token_ids=kept,
            reads=task.reads(self.layout),
            prefilled_tokens=len(task.prompt.ids) - cached,
            cached_tokens=cached,
            ttft_seconds=ttft_seconds,
            finish_reason="stop" if ended else cut_short,
        )
