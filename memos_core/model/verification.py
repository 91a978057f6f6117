"""What a KV cache changes in what a model says, measured before the cache is served.

The yardstick is the model's own rounding: read in one piece or in several, the same tokens give
logits that differ in their last bits, and no cache can be nearer than that.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import torch
from transformers.cache_utils import DynamicCache

from memos_core.errors import CacheMismatch, ContextTooLong, InvalidInput
from memos_core.model.architecture import context_window, stable_length, text_config
from memos_core.model.kv_cache import CHUNK, KVCache, logits, prefill, step

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Times the floor is allowed, for the cuts that are tried are a few of many. Of 270 caches of ten
# small architectures in each dtype, read in 2 to 7 pieces, the furthest was at 1.5 times the floor
# in bfloat16, 1.6 in float16 and 1.9 in float32; of 90 in which one of the last 40 tokens was
# another, the nearest at 5, 38 and 39,000 times. A mixture of experts in bfloat16 is less clear:
# where rounding sends a token to another expert the floor is high, one of 36 right caches was
# refused, and it is the KL divergence that tells (another token: 10 times its floor).
MARGIN = 3.0
_LEAST_KL = 1e-6  # nats: of less the logarithms of float32 say nothing
# Bits of the largest logit that the floor is never below: sums in float32 are rounded at each step,
# and where cuts showed less (none with eager attention) others still differed by 4 to 14 bits.
_BITS = {torch.float32: 8}
MOST = 8  # continuations, and
LONGEST = 32  # tokens of each: their logits are held at once, 4 bytes times the vocabulary each
RUN = 8  # tokens in a row that `held_out` takes
# Where a prefix is cut to measure the floor, as shares of it, besides at its end. 0 is after its
# first token: one token by itself goes other ways through the kernels, and the rest reads it.
CUTS: tuple[tuple[float, ...], ...] = ((), (0.5,), (0.0, 0.2, 0.6))


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """How far the logits with a KV cache are from those of a full prefill, and how far they may be.

    ``kl`` is the mean KL divergence of the next token from that of the full prefill, in nats;
    ``same_top`` the share of tokens, from 0 to 1, after which the likeliest token is the same. The
    floors are what rounding alone makes. A limit that is None was not set.
    """

    max_difference: float
    floor: float
    kl: float
    floor_kl: float
    same_top: float
    tokens: int  # how many it was measured after
    allowed: float | None  # of the largest difference
    allowed_kl: float | None

    @property
    def passed(self) -> bool:
        """Whether every limit is kept; never so where a number is NaN."""
        limits = ((self.max_difference, self.allowed), (self.kl, self.allowed_kl))
        set_limits = [(number, limit) for number, limit in limits if limit is not None]
        return bool(set_limits) and all(number <= limit for number, limit in set_limits)

    def as_json(self) -> dict[str, object]:
        """Return it as JSON can hold it: None also for what is infinite or not a number."""
        return {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in {**asdict(self), "passed": self.passed}.items()
        }

    def __str__(self) -> str:
        allowed = "" if self.allowed is None else f"{self.allowed:.2g} allowed, "
        allowed_kl = "" if self.allowed_kl is None else f" ({self.allowed_kl:.2g} allowed)"
        return (
            f"its logits differ from a full prefill's by up to {self.max_difference:.2g} "
            f"({allowed}{self.floor:.2g} is rounding), the KL divergence is {self.kl:.2g} "
            f"nats{allowed_kl}, and the likeliest token is the same after {self.same_top:.1%} of "
            f"{self.tokens} tokens"
        )


def verify(
    model: PreTrainedModel,
    prefix: Sequence[int],
    cache: KVCache,
    continuations: Sequence[Sequence[int]] | None = None,
    *,
    max_kl: float | None = None,
    max_difference: float | None = None,
) -> Verification:
    """Compare what a model says after continuations of a prefix with its cache and without.

    Of the first 8 continuations the first 32 tokens are read, or fewer where the context window
    ends; by default those of ``held_out``. Without limits, the logits must be those of a full
    prefill within the model's rounding, largest difference and mean KL divergence both: three
    times the floor, which is the worst of reading the prefix in one, two and four pieces, and at
    least what rounding to the last bit of the largest logit makes (the last three in float32), and
    at most what takes half of its digits. ``max_kl`` (nats) and ``max_difference`` (of logits)
    replace that.

    It takes a full prefill for each continuation and three more; what is longer than ``CHUNK``
    tokens is read in pieces of as many, whose logits are not held.

    Raises:
        CacheMismatch: the cache is of another number of tokens.
        ContextTooLong: the prefix leaves no room for a continuation.
        InvalidInput: there is no continuation of at least one token.
    """
    if cache.tokens != len(prefix):
        raise CacheMismatch(
            f"the KV cache is of {cache.tokens} tokens, the prefix of {len(prefix)}"
        )
    read = _fitting(model, prefix, held_out(prefix) if continuations is None else continuations)
    full = [_full(model, [*prefix, *ids], len(ids)) for ids in read]
    measured = [_compared(model, full, read, _in_pieces(model, prefix, cuts)) for cuts in CUTS]
    # NaN where one is: `max` of Python would pass over it.
    floor = torch.stack([difference for difference, _, _ in measured]).max()
    floor_kl = torch.stack([kl for _, kl, _ in measured]).max()
    eps, scale = torch.finfo(model.dtype).eps, _scale(full)
    bit = eps * scale
    floor = float(torch.maximum(floor, _BITS.get(model.dtype, 1) * bit))
    # Logits that are each rounded by themselves, twice: half the variance of their difference.
    floor_kl = float(torch.maximum(floor_kl, (bit * bit / 12).clamp(min=_LEAST_KL)))
    limited = max_kl is not None or max_difference is not None
    difference, kl, same = _compared(model, full, read, cache.to(model.device))
    return Verification(
        max_difference=float(difference),
        floor=floor,
        floor_kl=floor_kl,
        kl=float(kl),
        same_top=float(same),
        tokens=sum(map(len, read)),
        # What takes half of the digits is no rounding: such a model says another thing each time.
        allowed=max_difference if limited else MARGIN * min(floor, math.sqrt(eps) * float(scale)),
        allowed_kl=max_kl if limited else MARGIN * floor_kl,
    )


def held_out(ids: Sequence[int]) -> list[list[int]]:
    """Return two continuations of a prefix, of up to 24 tokens each, the same ones each time.

    Each is a run of tokens from the beginning, the middle and the end of the prefix, shuffled. What
    repeats an earlier text makes a model look back at where it stood, so that all parts of the
    cache count; and no tokenizer is needed for it.
    """
    chance = random.Random(0)  # noqa: S311  # no secret: the same each time is the point
    thirds = [ids[len(ids) * n // 3 : len(ids) * (n + 1) // 3] for n in range(3)]
    made: list[list[int]] = []
    for _ in range(2):
        starts = [chance.randrange(max(1, len(third) - RUN + 1)) for third in thirds]
        runs = [third[at : at + RUN] for third, at in zip(thirds, starts, strict=True)]
        chance.shuffle(runs)
        made.append([token for run in runs for token in run])
    return made


def _fitting(
    model: PreTrainedModel, prefix: Sequence[int], continuations: Sequence[Sequence[int]]
) -> list[list[int]]:
    """Return what is read of continuations."""
    config = text_config(model)
    limits = [limit for limit in (context_window(config), stable_length(config)) if limit]
    room = min([LONGEST, *(limit - len(prefix) for limit in limits)])
    if room < 1:
        raise ContextTooLong(
            f"a prefix of {len(prefix)} tokens fills the model's {min(limits)}: "
            "there is no room for a continuation to check its KV cache with"
        )
    read = [list(ids[:room]) for ids in continuations[:MOST] if ids]
    if not read:
        raise InvalidInput("name a continuation of at least one token")
    return read


@torch.inference_mode()
def _full(model: PreTrainedModel, ids: Sequence[int], keep: int) -> torch.Tensor:
    """Return the logits after the last ``keep`` tokens, read with all others and no kept cache."""
    cache = DynamicCache()
    first = len(ids) % CHUNK or CHUNK  # so that the last piece is a whole one
    starts = [0, *range(first, len(ids), CHUNK)]
    kept = torch.empty(0)
    for start, stop in zip(starts, [*starts[1:], len(ids)], strict=True):
        kept = step(model, ids[start:stop], cache, keep=1 if stop < len(ids) else keep)
    return kept


def _in_pieces(model: PreTrainedModel, ids: Sequence[int], cuts: Sequence[float]) -> KVCache:
    """Return the cache of tokens that are read up to each cut at once."""
    at = sorted({max(1, int(cut * len(ids))) for cut in cuts} | {len(ids)})
    made: KVCache | None = None
    for start, stop in zip([0, *at], at, strict=False):
        made = prefill(model, ids[start:stop], made)
    assert made is not None  # noqa: S101  # a prefix has a token: its cache does
    return made


def _compared(
    model: PreTrainedModel,
    full: Sequence[torch.Tensor],
    continuations: Sequence[Sequence[int]],
    cache: KVCache,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the largest difference of logits, the mean KL, and the share of same top tokens."""
    differences: list[torch.Tensor] = []
    divergences: list[torch.Tensor] = []
    same: list[torch.Tensor] = []
    for reference, ids in zip(full, continuations, strict=True):
        true, found = reference.float(), logits(model, ids, cache)
        # Equal infinities differ by nothing: some models bar tokens with them.
        differences.append(torch.where(true == found, 0.0, (true - found).abs()).max())
        true_log, found_log = true.log_softmax(-1), found.log_softmax(-1)
        terms = torch.where(true_log == found_log, 0.0, true_log.exp() * (true_log - found_log))
        divergences.append(terms.sum(-1))
        same.append((true.argmax(-1) == found.argmax(-1)).float())
    return (
        torch.stack(differences).max(),
        torch.cat(divergences).mean().clamp(min=0),  # rounding may leave it just below
        torch.cat(same).mean(),
    )


def _scale(full: Sequence[torch.Tensor]) -> torch.Tensor:
    """Return the largest finite logit, without its sign."""
    sizes = torch.stack([found.float().abs().nan_to_num(0, 0, 0).max() for found in full])
    return sizes.max()
