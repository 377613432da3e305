"""Our rows for the case tables of PEFT's `tests/test_custom_models.py`; `run.py` puts them in place of PEFT's.

Rows have the tables' own form: (name, model, config class, config arguments), and for several active adapters (name,
method, config class, arguments of the first, arguments of the second). Models are those of PEFT's file.
"""

from __future__ import annotations

from typing import Any

from multilora import MultiLoraConfig


def _case(name: str, model: str, **arguments: Any) -> tuple[str, str, type[MultiLoraConfig], dict[str, Any]]:
    # PEFT's toy layers are 10 × 20 and 20 × 2; r = 2 keeps most of them below full rank.
    return (f"MultiLoRA {name}", model, MultiLoraConfig, {"r": 2} | arguments)


# Said, since PEFT's tests put init_weights=False in place of the start and load such tensors into it; tensors alone do
# not say what function their scale has.
_LINEAR = {"scaling_function": "linear", "scaling_constant": 1.0}

TEST_CASES = [
    _case("regular expression", "MLP", target_modules="lin0"),
    _case("list", "MLP", target_modules=["lin0", "lin1"]),
    _case("scalar scaling", "MLP", target_modules=["lin0"], scaling="scalar"),
    _case("no scaling", "MLP", target_modules=["lin0", "lin1"], scaling="none", init_weights="lora"),
    _case("kaiming_uniform", "MLP", target_modules=["lin0"], init_weights="kaiming_uniform", **_LINEAR),
    _case("orthogonal", "MLP", target_modules=["lin0", "lin1"], init_weights="orthogonal", num_loras=5, **_LINEAR),
    _case("gaussian, n = 1", "MLP", target_modules=["lin1"], init_weights="gaussian", num_loras=1, **_LINEAR),
    _case("dropout and alpha", "MLP", target_modules=["lin0"], lora_dropout=0.1, lora_alpha=4),
    _case("modules_to_save", "MLP", target_modules=["lin0"], modules_to_save=["lin1"]),
    _case("patterns", "MLP", target_modules=["lin0", "lin1"], rank_pattern={"lin0": 3}, alpha_pattern={"lin1": 8}),
    _case("trained_bias", "MLP", target_modules=["lin0"], bias="multilora_only"),
    _case("Conv1D", "EmbConv1D", target_modules=["conv1d"]),
    _case("trainable tokens", "EmbConv1D", target_modules=["conv1d", "lin0"], trainable_token_indices={"emb": [0, 10]}),
    _case("Conv1D, scalar scaling", "EmbConv1D", target_modules=["conv1d"], scaling="scalar"),
]  # fmt: skip

_SAME = {"target_modules": ["lin0"], "init_weights": False, "r": 2}
MULTIPLE_ACTIVE_ADAPTERS_TEST_CASES = [
    ("MultiLoRA same", "multilora", MultiLoraConfig, _SAME, _SAME),
    ("MultiLoRA different", "multilora", MultiLoraConfig, _SAME, _SAME | {"target_modules": ["lin1"]}),
    ("MultiLoRA scalar, vector", "multilora", MultiLoraConfig, _SAME | {"scaling": "scalar"}, _SAME | {"num_loras": 2}),
    ("MultiLoRA none and vector", "multilora", MultiLoraConfig, _SAME | {"scaling": "none"}, _SAME | {"r": 3}),
]  # fmt: skip
