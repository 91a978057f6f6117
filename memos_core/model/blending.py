"""Approximate composition: one KV cache from segments that were computed without each other.

A segment's keys are turned to where it now stands, and the first tokens of each are computed anew,
for it is those that draw attention where a segment began by itself (EPIC, arXiv 2410.15332; that
a small share of tokens is enough, CacheBlend, arXiv 2405.16444). What remains is not what a full
prefill says: a segment's other tokens have not read the segments before it. So it is opt-in, and
``blended`` measures it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Any, cast

import torch
from transformers.cache_utils import DynamicCache

from memos_core.errors import (
    CacheMismatch,
    CacheRefused,
    ContextTooLong,
    InvalidInput,
    ModelUnsupported,
)
from memos_core.model.architecture import (
    check_keeps_keys,
    context_window,
    stable_length,
    text_config,
)
from memos_core.model.kv_cache import KVCache, prefill
from memos_core.model.verification import Verification, verify

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Segment = tuple[Sequence[int], KVCache]
RECOMPUTE = 0.15  # of a segment: 6 tokens of 40
_PROBED = 97  # tokens of a text at whose end keys are looked at: slow angles have moved by then


def segment_cache(model: PreTrainedModel, head_ids: Sequence[int], ids: Sequence[int]) -> KVCache:
    """Return the cache of a segment as ``blend`` takes it: read directly after the head."""
    head = prefill(model, head_ids)
    return prefill(model, ids, head).part(head.tokens)


@torch.inference_mode()
def blend(
    model: PreTrainedModel,
    head: KVCache,
    head_ids: Sequence[int],
    segments: Sequence[Segment],
    *,
    recompute: float = RECOMPUTE,
) -> KVCache:
    """Return about what a full prefill of the head and all segments would; nothing is verified.

    Each segment is its tokens and the cache that ``segment_cache`` made of them after this head.
    The first stands where it was computed and is exact. Of each other segment the share
    ``recompute`` of its tokens, its first ones and rounded up, is computed anew in all layers after
    all that is now before them: 0 turns the keys and nothing else, 1 is a full prefill in pieces.

    Raises:
        CacheMismatch: a cache is of another number of tokens than its ids.
        ContextTooLong: all together is longer than the context window.
        InvalidInput: ``recompute`` is not between 0 and 1.
        ModelUnsupported: the model's keys are not turned by their position and nothing else, or
            would be turned otherwise in a text of this length.
    """
    _check(model, head, head_ids, segments, recompute)
    starts = list(accumulate((cache.tokens for _, cache in segments), initial=head.tokens))
    turns = _turns(model, [*head_ids[:1], *(ids[0] for ids, _ in segments if ids)])
    joined = KVCache.joined(
        [
            head.to(model.device),
            *(
                _moved(cache.to(model.device), start - head.tokens, turns)
                for (_, cache), start in zip(segments, starts, strict=False)
            ),
        ]
    )
    for (ids, _), start in list(zip(segments, starts, strict=False))[1:]:
        # In floating point 0.28 of 25 is a little more than 7.
        if count := math.ceil(recompute * len(ids) - 1e-9):
            computed = prefill(model, ids[:count], joined.part(0, start)).part(start)
            _copy(computed, joined.part(start, start + count))
    return joined


def blended(
    model: PreTrainedModel,
    head: KVCache,
    head_ids: Sequence[int],
    segments: Sequence[Segment],
    *,
    recompute: float = RECOMPUTE,
    max_kl: float | None = None,
    max_difference: float | None = None,
    continuations: Sequence[Sequence[int]] | None = None,
) -> tuple[KVCache, Verification]:
    """Return what ``blend`` makes, and how far it is from a full prefill.

    ``max_kl`` (nats, mean over tokens) and ``max_difference`` (of logits) say how far it may be;
    without both it must be as near as any other cache. ``continuations`` are tokens after which
    it is measured (``verify``).

    Raises:
        CacheRefused: it is further from a full prefill than is allowed; the numbers are in the
            message.
        MemOSError: as ``blend`` and ``verify``.
    """
    cache = blend(model, head, head_ids, segments, recompute=recompute)
    ids = [*head_ids, *(token for segment, _ in segments for token in segment)]
    checked = verify(model, ids, cache, continuations, max_kl=max_kl, max_difference=max_difference)
    if not checked.passed:
        raise CacheRefused(
            f"the blended KV cache is not served: {checked}; recompute more than {recompute:.0%}, "
            "or give the memories as text"
        )
    return cache, checked


def _check(
    model: PreTrainedModel,
    head: KVCache,
    head_ids: Sequence[int],
    segments: Sequence[Segment],
    recompute: float,
) -> None:
    """Refuse what cannot be blended."""
    check_keeps_keys(model)
    if not 0 <= recompute <= 1:
        raise InvalidInput(f"recompute is a share from 0 to 1, not {recompute}")
    if not head_ids:
        raise InvalidInput("a head has at least one token: segments were computed after it")
    for ids, cache in [(head_ids, head), *segments]:
        if cache.tokens != len(ids):
            raise CacheMismatch(f"a KV cache of {cache.tokens} tokens came with {len(ids)} ids")
    total = head.tokens + sum(cache.tokens for _, cache in segments)
    config = text_config(model)
    if (window := context_window(config)) and total > window:
        raise ContextTooLong(f"{total} tokens do not fit the model's {window}")
    if (stable := stable_length(config)) and total > stable:
        raise ModelUnsupported(
            f"{type(model).__name__} turns its keys otherwise in texts of more than {stable} tokens"
        )


@dataclass(frozen=True, slots=True, eq=False)
class _Turn:
    """How a layer turns its keys: channels ``first`` and ``second``, by an angle per position."""

    first: torch.Tensor
    second: torch.Tensor
    frequencies: torch.Tensor

    def by(self, keys: torch.Tensor, positions: int) -> torch.Tensor:
        """Return keys turned on by ``positions``; computed in float32, of their dtype."""
        angles = self.frequencies * positions
        cos, sin = angles.cos().float(), angles.sin().float()
        one, other = keys[..., self.first].float(), keys[..., self.second].float()
        turned = keys.clone()
        turned[..., self.first] = (one * cos - other * sin).to(keys.dtype)
        turned[..., self.second] = (other * cos + one * sin).to(keys.dtype)
        return turned


def _moved(cache: KVCache, positions: int, turns: Sequence[_Turn | None]) -> KVCache:
    """Return a cache as of tokens that stand later; values do not know where they stand."""
    if not positions:
        return cache
    return KVCache(
        tuple(
            (turn.by(keys, positions) if turn else keys, values)
            for (keys, values), turn in zip(cache.layers, turns, strict=True)
        )
    )


def _copy(source: KVCache, target: KVCache) -> None:
    for (keys, values), (to_keys, to_values) in zip(source.layers, target.layers, strict=True):
        to_keys.copy_(keys)
        to_values.copy_(values)


def _turns(model: PreTrainedModel, ids: Sequence[int]) -> list[_Turn | None]:
    """Return how each layer turns its keys, None for one that does not; found by looking.

    A token that stands alone attends to itself only, so in every layer its keys at two positions
    are each other's, turned. Which channels go together, which angles a layer has, whether it has
    any: of all that architectures do, the way is taken that makes the one from the other.
    """
    name = type(model).__name__
    config = text_config(model)
    limits = (_PROBED, context_window(config), stable_length(config))
    position = min(limit for limit in limits if limit) - 1
    if not list(_angles(model)):
        raise ModelUnsupported(
            f"{name} has no rotary position embedding: keys of one position cannot become another's"
        )
    here, there = _alone(model, ids, 0), _alone(model, ids, position)
    allowed = 1e-3 if model.dtype == torch.float32 else 0.03  # bfloat16 keeps 8 bits of each cosine
    found: list[_Turn | None] = []
    for layer, (one, other) in enumerate(zip(here.layers, there.layers, strict=True)):
        ways = [None, *_ways(model, one[0])]
        errors = [_apart(way.by(one[0], position) if way else one[0], other[0]) for way in ways]
        best = min(range(len(ways)), key=errors.__getitem__)
        # Values know no position, but for latent attention, where they are what turns.
        turned_only = errors[best] <= allowed and _apart(one[1], other[1]) <= allowed
        if not turned_only:  # so of NaN too
            raise ModelUnsupported(
                f"layer {layer} of {name} does more than turn its keys by their position: a cache "
                "of it is right only where it was computed"
            )
        found.append(ways[best])
    if not any(found):
        raise ModelUnsupported(f"{name} does not turn its keys by the positions it is given")
    return found


def _alone(model: PreTrainedModel, ids: Sequence[int], position: int) -> KVCache:
    """Return the cache of single tokens at a position, one a row."""
    step = torch.tensor([[token] for token in sorted(set(ids))], device=model.device)
    cache = DynamicCache()
    model(
        input_ids=step,
        position_ids=torch.full_like(step, position),
        past_key_values=cache,
        use_cache=True,
    )
    return KVCache.taken(cache)


def _angles(model: PreTrainedModel) -> Iterator[torch.Tensor]:
    """Return the angles per position that a model's rotary embeddings have, each set once."""
    seen: set[tuple[float, ...]] = set()
    for name, buffer in model.named_buffers():
        if not name.endswith("inv_freq"):
            continue
        values = tuple(cast("list[float]", cast("Any", buffer).tolist()))
        if values not in seen:
            seen.add(values)
            yield buffer.double()


def _ways(model: PreTrainedModel, keys: torch.Tensor) -> Iterator[_Turn]:
    """Return every way to turn a layer's keys that an architecture may have.

    All channels may turn or the first ones (Phi); one goes with that half of them away (Llama) or
    with its neighbour (Cohere, GLM).
    """
    for angles in _angles(model):
        frequencies = angles.to(keys.device)
        pairs = torch.arange(len(frequencies), device=keys.device)
        if 2 * len(pairs) <= keys.shape[-1]:
            yield _Turn(pairs, pairs + len(pairs), frequencies)
            yield _Turn(2 * pairs, 2 * pairs + 1, frequencies)


def _apart(one: torch.Tensor, other: torch.Tensor) -> float:
    """Return how far keys are from others, as a share of those."""
    size = float(other.float().square().sum().sqrt())
    return float((one.float() - other.float()).square().sum().sqrt()) / (size or 1.0)
