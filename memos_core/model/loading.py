"""Models and tokenizers of Hugging Face's, by name or from a folder."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# Where files are found, which must be the same for both.
_WHERE = {
    "cache_dir",
    "code_revision",
    "force_download",
    "local_files_only",
    "proxies",
    "revision",
    "subfolder",
    "token",
    "trust_remote_code",
}


def loaded(
    name: str | Path, device: str | None, options: Mapping[str, Any]
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Return a causal language model, ready to answer, and its tokenizer."""
    transformers = cast("Any", import_module("transformers"))  # slow to load
    model = transformers.AutoModelForCausalLM.from_pretrained(name, **{"dtype": "auto", **options})
    where = {key: value for key, value in options.items() if key in _WHERE}
    tokenizer = transformers.AutoTokenizer.from_pretrained(name, **where)
    return model.eval() if device is None else model.eval().to(device), tokenizer
