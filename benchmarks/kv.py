"""Time to the first token from a KV cache of memories, beside reading the same memories as text.

    python -m benchmarks.kv [--json] [--rounds 5] [--device cuda] [--dtype bfloat16]
                            [--shape small] [--prefixes 256,1024,4096]

The model has the configuration of Qwen2.5-0.5B and random weights, so that nothing is downloaded:
times depend on its shape alone, and answers mean nothing. For each prefix there are memories of as
many tokens; a question has, with what closes the memory and begins the answer, 37. *Text* is
`generate` of a model that reads them as text; *memory* of one that holds their cache; *disk* of one
that was just made, which finds the file, compares its checksum and maps it (*dropped*: after the
system was told to let go of its pages); the *floor* is the question alone, read by hand over a
cache that is there. All include the look in the database but the floor. They are asked in turns,
text only every third round; times are medians in milliseconds of one run, but *prefill by hand* and
*encode* were timed once. The checksum of the weights, which a process takes once, is in none.

*Loading* is the rate at which a stored cache is there, checked and with every page touched, beside
`read` of the same file into one buffer. The *wrapper* is `MemoryModel.generate` of 16 tokens beside
the same call of transformers with the same cache and the same tokens; with another memory that
answers from a list, it costs no database. Differences of logits are those that `encode` measured.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from benchmarks.machine import machine
from benchmarks.overhead import Drawn
from benchmarks.server import own_server
from memos_core import MemCube, MemOS, View
from memos_core.cached import Remembered
from memos_core.model import MemoryModel, Quantization
from memos_core.model.kv_cache import KVCache, prefill
from memos_core.model.memory import tenant_of
from memos_core.model.storage import mapped
from memos_core.tensor_files import RunFile, TensorFiles

SHAPES: dict[str, dict[str, Any]] = {
    "qwen2.5-0.5b": {
        "vocab_size": 151_936,
        "hidden_size": 896,
        "intermediate_size": 4_864,
        "num_hidden_layers": 24,
        "num_attention_heads": 14,
        "num_key_value_heads": 2,
        "max_position_embeddings": 32_768,
        "tie_word_embeddings": True,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1_000_000.0},
    },
    "small": {
        "vocab_size": 512,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 8_192,
        "tie_word_embeddings": True,
    },
}
NAMES = ["Ann", "Bob", "Carla", "Dmitri", "Elif", "Femi", "Greta", "Hugo"]
VERBS = ["likes", "sells", "repairs", "paints", "misses", "collects", "borrows", "remembers"]
THINGS = ["bicycles", "violins", "kites", "lanterns", "maps", "teapots", "orchids", "ladders"]
PLACES = ["in Oslo", "near the harbour", "behind the station", "on Fridays", "by train"]
QUESTION = "What does Ann like?"
TEMPLATE = """{% for message in messages %}<|im_start|>{{ message.role }}
{{ message.content }}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""
NEW = 16  # tokens of an answer whose wrapper is measured
LOOKS = 30  # at the database, and at what comes before the model
PAGE = 4_096
AIMS = {
    "memory / floor": "≤ 1.15",
    "disk / floor": "≤ 1.4",
    "less than text, %": "≥ 90 at the longest",
    "loading / read": "≥ 0.5",
    "loading / read, dropped": "≥ 0.5",
    "wrapper / bare generate": "≤ 1.05",
}


@dataclass(kw_only=True)
class Prefix:
    """What was measured of one prefix; times in milliseconds, rates in MB/s."""

    tokens: int
    memories: int
    question: int
    megabytes: float
    warm: bool | None  # whether the file lay in the system's page cache when it was loaded
    times: dict[str, float] = field(default_factory=dict[str, float])
    ratios: dict[str, float] = field(default_factory=dict[str, float])
    rates: dict[str, float] = field(default_factory=dict[str, float])
    verified: dict[str, float] = field(default_factory=dict[str, float])


def make_model(shape: str, device: str, dtype: str) -> PreTrainedModel:
    torch.manual_seed(0)
    config = Qwen2Config(**SHAPES[shape], attn_implementation="sdpa")
    return Qwen2ForCausalLM(config).to(device, getattr(torch, dtype)).eval()


def make_tokenizer() -> PreTrainedTokenizerBase:
    """Train a byte-level BPE on what the memories say."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=500,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([QUESTION, *(text(number) for number in range(400))], trainer)
    made = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<|endoftext|>")  # noqa: S106
    made.chat_template = TEMPLATE
    return made


def text(number: int) -> str:
    """Return a memory; no two are the same."""
    name, verb = NAMES[number % 8], VERBS[number // 8 % 8]
    thing, place = THINGS[number // 64 % 8], PLACES[number % 5]
    return f"{name} {verb} {thing} {place} since {1900 + number}."


class Bench:
    """A memory, a model, and what is measured of both."""

    def __init__(
        self, memos: MemOS, drawn: Drawn, model: PreTrainedModel, folder: Path, *, rounds: int
    ) -> None:
        self._memos, self._drawn, self._model, self._folder = memos, drawn, model, folder
        self._rounds = rounds
        self._tokenizer = make_tokenizer()
        self._messages = [{"role": "user", "content": QUESTION}]

    def warm_up(self) -> float:
        """Run the model until it is no slower for being new; return what the checksum took."""
        for _ in range(3):
            prefill(self._model, list(range(256)))
        view = self._memos.at("weights")
        with MemoryModel(self._model, self._tokenizer, view, folder=self._folder) as model:
            return timed(lambda: model.fingerprint)[1]

    def prefix(self, tokens: int) -> Prefix:
        view = self._memos.at(f"prefix {tokens}")
        with self._fresh(view) as ours, self._fresh(view, kinds=["plaintext"]) as reading:
            facts = self._facts(view, ours, tokens)
            prompt = ours.layout.prompt(self._messages, memories=[fact.text for fact in facts])
            cache, prefilled = timed(lambda: prefill(self._model, prompt.prefix))
            cube, encoded = timed(lambda: ours.encode(facts, name="benchmark"))
            (kept,) = view.remembered([cube.id])
            assert kept.cache is not None  # noqa: S101 it was encoded
            file = self._file(view, kept.cache.keys)
            made = Prefix(
                tokens=len(prompt.prefix),
                memories=len(facts),
                question=len(prompt.rest),
                megabytes=file.path.stat().st_size / 1e6,
                warm=in_page_cache(file.path),
                verified={
                    name: float(str(kept.cache.report[name]))
                    for name in ("max_difference", "floor", "kl", "floor_kl", "same_top")
                },
            )
            made.times |= {"prefill by hand": prefilled, "encode": encoded}
            ways = {
                "memory": lambda: self._ttft(ours, cube),
                "floor": lambda: timed(lambda: self._forward(cache, prompt.rest))[1],
                "disk": lambda: self._from_disk(view, cube),
            }
            if dropped(file.path):
                ways["disk, dropped"] = lambda: self._from_dropped(view, cube, file.path)
            self._first_tokens(made, ways, lambda: self._ttft(reading, cube))
            self._loading(made, file)
            self._wrapper(made, kept, ours, cache, prompt.ids)
        return made

    def _from_disk(self, view: View, cube: MemCube) -> float:
        with self._fresh(view) as fresh:
            return self._ttft(fresh, cube)

    def _from_dropped(self, view: View, cube: MemCube, path: Path) -> float:
        gc.collect()  # what is mapped cannot be dropped
        dropped(path)
        return self._from_disk(view, cube)

    def _first_tokens(
        self, made: Prefix, ways: dict[str, Callable[[], float]], text: Callable[[], float]
    ) -> None:
        found: dict[str, list[float]] = {name: [] for name in ("text", *ways)}
        ways["floor"]()
        for number in range(self._rounds):
            if number % 3 == 0:
                found["text"].append(text())
            for name, way in ways.items():
                found[name].append(way())
        made.times |= {name: statistics.median(times) for name, times in found.items()}
        for name in ways:
            if name != "floor":
                made.ratios[f"{name} / floor"] = made.times[name] / made.times["floor"]
        made.ratios["less than text, %"] = 100 * (1 - made.times["memory"] / made.times["text"])

    def _loading(self, made: Prefix, file: RunFile) -> None:
        """Time a stored cache until each of its pages was touched, and a plain read of the file."""

        def load() -> float:
            return timed(lambda: touched(mapped(file, self._model.dtype, checked=False)))[1]

        buffer = bytearray(file.path.stat().st_size)

        def plain() -> float:
            return timed(lambda: read_into(file.path, buffer))[1]

        for cold in (False, True):
            if cold and not dropped(file.path):
                continue
            ours: list[float] = []
            floor: list[float] = []
            for _ in range(max(self._rounds, 3)):
                for way, times in ((plain, floor), (load, ours)):
                    gc.collect()
                    if cold:
                        dropped(file.path)
                    times.append(way())
            name = ", dropped" if cold else ""
            made.rates[f"loading{name}"] = made.megabytes / statistics.median(ours) * 1000
            made.rates[f"read{name}"] = made.megabytes / statistics.median(floor) * 1000
            made.ratios[f"loading / read{name}"] = statistics.median(floor) / statistics.median(
                ours
            )

    def _wrapper(
        self,
        made: Prefix,
        kept: Remembered,
        ours: MemoryModel,
        cache: KVCache,
        ids: Sequence[int],
    ) -> None:
        """Time answers of 16 tokens: ours, ours without a database, and transformers' own."""
        view = ours.memos
        known = Known(view, kept)
        step = torch.tensor([ids], device=self._model.device)

        def bare() -> list[int]:
            with torch.inference_mode():
                said = self._model.generate(
                    step,
                    attention_mask=torch.ones_like(step),
                    past_key_values=cache.request(),
                    max_new_tokens=NEW,
                    pad_token_id=self._tokenizer.pad_token_id,
                )
            return said[0, len(ids) :].tolist()

        def answer(model: MemoryModel) -> list[int]:
            said = model.generate(self._messages, memory=kept.cube.id, max_new_tokens=NEW)
            return list(said.token_ids)

        found: dict[str, list[float]] = {"bare": [], "with": [], "without": []}
        with self._fresh(known) as free:  # type: ignore[arg-type]
            assert bare() == answer(ours) == answer(free), "the same tokens"  # noqa: S101
            for _ in range(self._rounds):
                found["bare"].append(timed(bare)[1])
                found["with"].append(timed(lambda: answer(ours))[1])
                found["without"].append(timed(lambda: answer(free))[1])
        bare_ms, with_ms, without_ms = (statistics.median(times) for times in found.values())
        made.times |= {
            f"bare generate of {NEW}": bare_ms,
            f"generate of {NEW}": with_ms,
            f"generate of {NEW} without database": without_ms,
            "lineage query": many(lambda: view.remembered([kept.cube.id])),
            "all before the model": many(
                lambda: ours._reader.tasks(  # noqa: SLF001 nothing else ends there
                    [self._messages], kept.cube.id, recall=0, new=NEW
                )
            ),
        }
        made.ratios["wrapper / bare generate"] = with_ms / bare_ms
        made.ratios["wrapper without database / bare generate"] = without_ms / bare_ms

    def quantised(self, tokens: int) -> list[dict[str, Any]]:
        """Return what fewer bits save and change, of one prefix."""
        rows: list[dict[str, Any]] = []
        for how in Quantization:
            view = self._memos.at(f"stored as {how}")
            with self._fresh(view) as ours:
                limit = None if how is Quantization.NONE else 100.0  # nats: it is looked at below
                facts = self._facts(view, ours, tokens)
                cube = ours.encode(facts, quantization=how, max_kl=limit)
                (kept,) = view.remembered([cube.id])
                assert kept.cache is not None  # noqa: S101
                file = self._file(view, kept.cache.keys)
                load = statistics.median(
                    timed(lambda f=file: touched(mapped(f, self._model.dtype, checked=False)))[1]
                    for _ in range(max(self._rounds, 3))
                )
                named = ("kl", "floor_kl", "max_difference", "floor", "same_top")
                rows.append(
                    {
                        "storage": how.value,
                        "bytes_per_token": file.path.stat().st_size / sum(kept.cache.tokens),
                        "load_ms": load,
                        **{name: kept.cache.report[name] for name in named},
                    }
                )
        return rows

    @contextmanager
    def _fresh(self, view: View, **options: Any) -> Iterator[MemoryModel]:
        """Return a MemoryModel that holds nothing, and knows the checksum of its weights."""
        with MemoryModel(
            self._model, self._tokenizer, view, folder=self._folder, **options
        ) as model:
            _ = model.fingerprint
            yield model

    def _facts(self, view: View, ours: MemoryModel, tokens: int) -> list[MemCube]:
        """Remember as much as makes a prefix of about so many tokens."""
        texts: list[str] = []
        length = len(ours.layout.head())
        for number in range(tokens):
            length += len(ours.layout.memory(text(number)))
            if length > tokens:
                break
            texts.append(text(number))
        self._drawn.draw(len(texts))
        return view.add(texts)

    def _file(self, view: View, keys: Sequence[str]) -> RunFile:
        file = TensorFiles(self._folder, tenant_of(view)).find(keys[0])
        assert file is not None  # noqa: S101 it was written just now
        return file

    def _ttft(self, model: MemoryModel, cube: MemCube) -> float:
        return 1000 * model.generate(self._messages, memory=cube, max_new_tokens=1).ttft_seconds

    @torch.inference_mode()
    def _forward(self, cache: KVCache, rest: Sequence[int]) -> int:
        step = torch.tensor([rest], device=self._model.device)
        said = self._model(input_ids=step, past_key_values=cache.request(), logits_to_keep=1)
        return int(said.logits[0, -1].argmax())


class Known:
    """A memory that knows one answer, and asks nobody for it."""

    def __init__(self, view: View, kept: Remembered) -> None:
        self._view, self._kept = view, kept

    def __getattr__(self, name: str) -> Any:
        return getattr(self._view, name)

    def remembered(self, ids: Sequence[UUID | str]) -> list[Remembered]:
        return [self._kept for _ in ids]


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    start = time.perf_counter()
    result = work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return result, (time.perf_counter() - start) * 1000


def many(work: Callable[[], object]) -> float:
    work()
    return statistics.median(timed(work)[1] for _ in range(LOOKS))


def touched(cache: KVCache) -> float:
    """Read a number of each page, as little as can be done with all of a mapped file."""
    step = PAGE // cache.layers[0][0].element_size()
    return sum(
        float(tensor.reshape(-1)[::step].float().sum())
        for layer in cache.layers
        for tensor in layer
    )


def read_into(path: Path, buffer: bytearray) -> None:
    with path.open("rb", buffering=0) as file:
        view, done = memoryview(buffer), 0
        while count := file.readinto(view[done : done + 2**23]):
            done += count


def in_page_cache(path: Path) -> bool | None:
    """Say whether a file can be read without a wait, where the system tells."""
    if not hasattr(os, "RWF_NOWAIT"):
        return None
    with path.open("rb", buffering=0) as file:
        size = path.stat().st_size
        for share in (0.0, 0.25, 0.5, 0.75, 0.99):
            try:
                os.preadv(file.fileno(), [bytearray(1)], int(share * size), os.RWF_NOWAIT)
            except BlockingIOError:
                return False
            except OSError:  # this file system does not tell
                return None
    return True


def dropped(path: Path) -> bool:
    """Tell the system to drop a file from its cache; say whether it did."""
    if not hasattr(os, "posix_fadvise"):
        return False
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return in_page_cache(path) is False


def run(
    dsn: str,
    folder: Path,
    *,
    shape: str,
    prefixes: Sequence[int],
    rounds: int,
    device: str = "cpu",
    dtype: str = "float32",
) -> dict[str, Any]:
    """Measure every prefix, and of the first what fewer bits do."""
    model = make_model(shape, device, dtype)
    drawn = Drawn()
    with MemOS.open(dsn, embedder=drawn) as memos:
        bench = Bench(memos, drawn, model, folder, rounds=rounds)
        checksum = bench.warm_up()
        lines = [bench.prefix(tokens) for tokens in prefixes]
        quantised = bench.quantised(prefixes[0])
    return {
        "machine": machine(),
        "shape": shape,
        "device": torch.cuda.get_device_name() if device.startswith("cuda") else device,
        "dtype": dtype,
        "threads": torch.get_num_threads(),
        "rounds": rounds,
        "checksum_ms": checksum,
        "prefixes": [asdict(line) for line in lines],
        "quantised": quantised,
    }


def caption(result: dict[str, Any]) -> str:
    lines = result["prefixes"]
    warm = {True: "in the page cache", False: "not in the page cache", None: "page cache unknown"}
    files = ", ".join(warm[line["warm"]] for line in lines)
    return (
        f"{result['machine']}; {result['shape']} in {result['dtype']} on {result['device']}, "
        f"{result['threads']} threads, {result['rounds']} rounds; questions of "
        f"{lines[0]['question']} tokens; files {files}; checksum of the weights "
        f"{result['checksum_ms'] / 1000:.1f} s\n"
    )


def table(result: dict[str, Any]) -> str:
    """Return the tables of docs/benchmarks.md."""
    lines = result["prefixes"]
    head = " | ".join(f"{line['tokens']:,} tokens" for line in lines)
    rows = [caption(result), f"| | {head} | aim |", "|---|" + "---|" * (len(lines) + 1)]
    rows.append("| memories | " + " | ".join(f"{line['memories']}" for line in lines) + " | |")

    def row(what: str, part: str, name: str, form: str) -> None:
        cells = [format(line[part][name], form) if name in line[part] else "" for line in lines]
        rows.append(f"| {what} | {' | '.join(cells)} | {AIMS.get(name, '')} |")

    for part, form, unit in (
        ("times", ",.1f", ", ms"),
        ("ratios", ".2f", ""),
        ("rates", ",.0f", ", MB/s"),
    ):
        for name in dict.fromkeys(name for line in lines for name in line[part]):
            row(name + unit, part, name, form)
    rows.append("| file, MB | " + " | ".join(f"{line['megabytes']:.1f}" for line in lines) + " | |")
    row("largest difference of logits", "verified", "max_difference", ".1e")
    row("its floor", "verified", "floor", ".1e")
    rows += [
        (
            "\n| stored as | bytes/token | load, ms | KL, nats | floor | largest difference "
            "| floor | same likeliest token |"
        ),
        "|---|---|---|---|---|---|---|---|",
        *(
            f"| {one['storage']} | {one['bytes_per_token']:,.0f} | {one['load_ms']:.1f} | "
            f"{one['kl']:.1e} | {one['floor_kl']:.1e} | {one['max_difference']:.1e} | "
            f"{one['floor']:.1e} | {one['same_top']:.1%} |"
            for one in result["quantised"]
        ),
    ]
    return "\n".join(rows)


def main() -> None:
    """Measure on a server that is made for it, and print the tables or JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--shape", choices=sorted(SHAPES), default="qwen2.5-0.5b")
    parser.add_argument("--prefixes", default="256,1024,4096")
    options = parser.parse_args()
    with own_server() as (dsn, folder):
        result = run(
            dsn,
            folder / "kv",
            shape=options.shape,
            prefixes=[int(tokens) for tokens in options.prefixes.split(",")],
            rounds=options.rounds,
            device=options.device,
            dtype=options.dtype,
        )
    print(json.dumps(result, indent=2) if options.json else table(result))


if __name__ == "__main__":
    main()
