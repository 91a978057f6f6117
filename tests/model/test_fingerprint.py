"""What a KV cache depends on beside its tokens is seen, however it is changed."""

from __future__ import annotations

from typing import Any, cast

import pytest
import torch
from peft import IA3Config, LNTuningConfig, LoHaConfig, LoKrConfig, LoraConfig, OFTConfig

from memos_core.model.fingerprint import Fingerprinted
from memos_core.model.form import Form
from memos_core.model.prefix import Prefix
from memos_core.model.quantization import Quantization
from tests.model.models import model_of


def of(name: str = "llama", **shape: Any) -> Fingerprinted:
    return Fingerprinted(model_of(name, **shape), "layout")


SHAPING: dict[str, Any] = {
    "rms_norm_eps": 0.1,
    "hidden_act": "relu",
    "max_position_embeddings": 64,
}


@pytest.mark.parametrize("name", SHAPING)
def test_whatever_of_a_configuration_shapes_keys_is_a_part_of_it(name: str) -> None:
    before, other = of().now(), of(**{name: SHAPING[name]}).now()
    assert other.weights == before.weights
    assert other.key != before.key
    (why,) = other.differences(before.as_json())
    assert why.startswith(f"its configuration's {name} is ")


def test_what_decides_only_how_answers_are_made_is_no_part_of_it() -> None:
    one = of()
    before = one.now().key
    config = one._model.config  # noqa: SLF001
    config._name_or_path, config.use_cache, config.eos_token_id = "elsewhere", False, 7  # noqa: SLF001
    config.id2label = {0: "no", 1: "yes"}
    assert one.now().key == before


ADAPTERS: dict[str, Any] = {
    "lora": LoraConfig(target_modules=["q_proj"], init_lora_weights=False),
    "ia3": IA3Config(target_modules=["k_proj"], feedforward_modules=[], init_ia3_weights=False),
    "loha": LoHaConfig(target_modules=["v_proj"], init_weights=False),
    "lokr": LoKrConfig(target_modules=["v_proj"], init_weights=False),
    "oft": OFTConfig(target_modules=["q_proj"], oft_block_size=8, init_weights=False),
    "norms": LNTuningConfig(target_modules=["input_layernorm"]),
    "whole": LoraConfig(target_modules=["q_proj"], modules_to_save=["k_proj"]),
}


@pytest.mark.filterwarnings("ignore:Unsupported layer type")
@pytest.mark.parametrize("name", ADAPTERS)
def test_an_adapter_of_any_method_is_seen_when_it_is_switched(name: str) -> None:
    one = of()
    model = one._model  # noqa: SLF001
    model.add_adapter(ADAPTERS[name])
    model.eval()
    tuned = one.now()
    model.disable_adapters()
    (why,) = one.now().differences(tuned.as_json())
    assert why.startswith("its adapter is ")


DYNAMIC = {"rope_type": "dynamic", "rope_theta": 10_000.0, "factor": 4.0}
LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 10_000.0,
    "short_factor": [1.0] * 8,
    "long_factor": [4.0] * 8,
    "original_max_position_embeddings": 64,
}
GROWING: dict[str, dict[str, Any]] = {
    "llama": {"rope_parameters": DYNAMIC, "max_position_embeddings": 64},
    "phi3": {"rope_parameters": LONGROPE, "original_max_position_embeddings": 64},
}


@pytest.mark.parametrize("name", GROWING)
@torch.inference_mode()
def test_a_long_text_leaves_it_as_it_was(name: str) -> None:
    one = of(name, **GROWING[name])
    before, ids = one.now(), torch.arange(3, 203)[None]
    cast("Any", one._model)(ids)  # noqa: SLF001
    assert one.now() == before


def test_another_format_is_named_alone() -> None:
    now = of().now()
    assert now.differences({"format": 1, "shape": "{}"}) == [
        f"its format of this library is 1, not {now.format}"
    ]


@torch.no_grad()
def _in_place(weight: torch.Tensor) -> None:
    weight.mul_(1.01)


def _by_data(weight: torch.Tensor) -> None:
    weight.data.mul_(1.01)


def _of_another(weight: torch.Tensor) -> None:
    weight.data = weight.data * 1.01


@pytest.mark.parametrize("write", [_in_place, _by_data, _of_another])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_that_are_written_to_are_seen(write: Any, dtype: torch.dtype) -> None:
    one = of()
    model = one._model.to(dtype)  # noqa: SLF001
    before = one.now()
    assert one.now() == before
    write(model.get_parameter("model.layers.1.mlp.down_proj.weight"))
    (why,) = one.now().differences(before.as_json())
    assert "checksum of the weights" in why


def test_no_two_tenants_or_forms_have_a_key_in_common() -> None:
    forms = [
        Form(),
        Form(quantization=Quantization.INT8),
        Form(recompute=0.5),
        Form(quantization=Quantization.INT8, recompute=0.5),
    ]
    tenants = ["acme", "int8 None acme", "int8 0.5 acme", "none 0.5 acme", 'acme", "x']
    keys = [
        Prefix.of(tenant, form.root("model"), [[1, 2]]).keys[0]
        for form in forms
        for tenant in tenants
    ]
    assert len(set(keys)) == len(forms) * len(tenants)
