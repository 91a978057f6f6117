"""Generating answers to prompts whose beginnings are cached."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import torch
from transformers import StoppingCriteriaList

from memos_core.model.architecture import text_config
from memos_core.model.generation import Clock, Generation, Streamer, cut
from memos_core.model.layout import Layout
from memos_core.model.reading import Task

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """How an answer is to be made; ``options`` are transformers' own."""

    max_new_tokens: int
    stops: Sequence[str]
    options: Mapping[str, Any]
    clock: Clock
    streamer: Streamer | None = None


@dataclass(frozen=True, kw_only=True)
class Answerer:
    """Runs ``generate`` of transformers on full token ids and a cache of their beginning."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    layout: Layout

    def answers(self, tasks: Sequence[Task], asked: Asked) -> list[Generation]:
        """Answer prompts, those that begin alike in one pass, in their order."""
        done: dict[int, Generation] = {}
        for places in self._alike(tasks):
            rows = self._answered([tasks[place] for place in places], asked)
            done.update(zip(places, rows, strict=True))
        return [done[place] for place in range(len(tasks))]

    def _alike(self, tasks: Sequence[Task]) -> list[list[int]]:
        """Return the places of tasks that can be one batch: of one cache, and one length.

        Rows are filled up between memory and messages, which counts as distance in a sliding
        window: there only rows of one length go together.
        """
        windowed = getattr(text_config(self.model), "sliding_window", None) is not None
        groups: dict[object, list[int]] = {}
        for place, task in enumerate(tasks):
            keys = task.prefix.keys[: task.found.runs]
            length = len(task.prompt.ids) if windowed else 0
            groups.setdefault((keys, length), []).append(place)
        return list(groups.values())

    def _answered(self, tasks: Sequence[Task], asked: Asked) -> list[Generation]:
        ids, mask = self._rows(tasks)
        given = dict(asked.options)
        if asked.stops:
            given.update(stop_strings=list(asked.stops), tokenizer=self.tokenizer)
        if asked.streamer is not None:
            given["streamer"] = asked.streamer
        if (cache := tasks[0].found.cache) is not None:
            beams = int(given.get("num_beams") or 1)
            given["past_key_values"] = cache.request(len(tasks) * beams)
        with torch.inference_mode():
            sequences = cast("Any", self.model).generate(
                ids,
                attention_mask=mask,
                max_new_tokens=asked.max_new_tokens,
                pad_token_id=self._pad,
                stopping_criteria=StoppingCriteriaList([asked.clock]),
                **given,
            )
        said = cast("list[list[int]]", sequences[:, ids.shape[1] :].tolist())
        return [self._answer(task, tokens, asked) for task, tokens in zip(tasks, said, strict=True)]

    def _rows(self, tasks: Sequence[Task]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return ids and mask of rows, each filled up after what is cached."""
        cached = tasks[0].tokens_in_cache
        rows = [list(task.prompt.ids) for task in tasks]
        gaps = [max(map(len, rows)) - len(row) for row in rows]
        ids = [
            row[:cached] + [self._pad] * gap + row[cached:]
            for row, gap in zip(rows, gaps, strict=True)
        ]
        mask = [
            [1] * cached + [0] * gap + [1] * (len(row) - cached)
            for row, gap in zip(rows, gaps, strict=True)
        ]
        device = self.model.device
        return torch.tensor(ids, device=device), torch.tensor(mask, device=device)

    def _answer(self, task: Task, tokens: list[int], asked: Asked) -> Generation:
        ends = self._ends
        ended = next((place for place, token in enumerate(tokens) if token in ends), None)
        kept = tokens if ended is None else tokens[:ended]
        text = cast("str", cast("Any", self.tokenizer).decode(kept, skip_special_tokens=True))
        before = cut(text, asked.stops)
        stopped = ended is not None or before is not None or len(tokens) < asked.max_new_tokens
        cached = task.tokens_in_cache - task.computed
        return Generation(
            text=text if before is None else before,
            token_ids=tuple(kept),
            reads=task.reads(self.layout),
            prefilled_tokens=len(task.prompt.ids) - cached,
            cached_tokens=cached,
            ttft_seconds=asked.clock.ttft_seconds,
            finish_reason="stop" if stopped else "length",
        )

    @property
    def _ends(self) -> set[int]:
        """The tokens that end an answer."""
        config = cast("Any", self.model.generation_config)
        ends = cast("int | list[int] | None", config.eos_token_id)
        if ends is None:
            return set()
        return set(ends) if isinstance(ends, list) else {ends}

    @property
    def _pad(self) -> int:
        for token in (self.tokenizer.pad_token_id, self.tokenizer.eos_token_id):
            if isinstance(token, int):
                return token
        return 0
