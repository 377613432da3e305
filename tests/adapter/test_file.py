"""Adapter folders: what is read is what PEFT saved; what does not fit is refused; one layer in memory at a time."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn
from transformers import PreTrainedModel

from adapter_files import Spy, change_config, change_tensors, load, lora_config, save_adapter
from effort import examples
from multilora import InputError, MultiLoraConfig
from multilora.adapter import file as checkpoint
from multilora.adapter.config import CONFIG_FILE
from multilora.adapter.file import WEIGHTS_FILE, AdapterFile, open_adapter
from multilora.storage.safetensors import natural_order

Make = Callable[..., PreTrainedModel]
PATTERNS = {"rank_pattern": {"q_proj": 2, "c_attn": 3, r"layers\.1\.mlp\..*": 5}, "alpha_pattern": {"v_proj": 5}}
Q0 = "base_model.model.model.layers.0.self_attn.q_proj"


@pytest.fixture(params=["llama", "gpt2"])
def make_model(request: pytest.FixtureRequest) -> Make:
    return request.getfixturevalue(f"make_{request.param}")


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Adapters on one small module, by name; copied by tests that spoil them."""
    folder = tmp_path_factory.mktemp("saved")
    for name, config in {
        "multilora": MultiLoraConfig(r=3, num_loras=2, init_weights=False),
        "none": MultiLoraConfig(r=3, num_loras=2, scaling="none", init_weights=False),
        "lora": lora_config(target_modules=["first", "second"]),
    }.items():
        config.target_modules = {"first", "second"}
        get_peft_model(small_module(), config).save_pretrained(folder / name)
    return folder


def small_module() -> nn.Module:
    return nn.ModuleDict({"first": nn.Linear(8, 7), "second": nn.Linear(5, 9)})


@pytest.fixture
def adapter(saved: Path, tmp_path: Path) -> Path:
    return shutil.copytree(saved / "multilora", tmp_path / "adapter")


@pytest.fixture
def lora(saved: Path, tmp_path: Path) -> Path:
    return shutil.copytree(saved / "lora", tmp_path / "lora")


def deltas_of(model: PeftModel) -> dict[str, Tensor]:
    """ΔW by layer as (d_out, d_in), as the method's own layers compute it."""
    return {
        name: module.get_delta_weight("default").detach().reshape(-1)
        for name, module in model.base_model.model.named_modules()
        if hasattr(module, "get_delta_weight")
    }


def assert_reads(model: PeftModel, folder: Path) -> AdapterFile:
    file = open_adapter(folder)
    expected = deltas_of(model)
    assert file.layers.keys() == expected.keys()
    for name, delta in expected.items():
        ours = file.factors(name).delta()
        torch.testing.assert_close(file.folded(name).delta(), ours)
        base = model.get_submodule(f"base_model.model.{name}").get_base_layer()
        ours = ours if isinstance(base, nn.Linear) else ours.t()  # Conv1D keeps W transposed
        torch.testing.assert_close(ours.reshape(-1), delta, rtol=1e-5, atol=1e-6)
        layer = file.layers[name]
        folded = file.folded(name)
        assert (folded.total_rank, folded.d_in, folded.d_out) == (layer.total_rank, layer.d_in, layer.d_out)
    return file


# What is read ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scaling", ["vector", "scalar", "none"])
def test_multilora_pairs_are_the_model_s(make_model: Make, tmp_path: Path, scaling: Any) -> None:
    config = MultiLoraConfig(r=4, num_loras=3, lora_alpha=6, scaling=scaling, init_weights=False, **PATTERNS)
    save_adapter(make_model(), tmp_path, config)
    file = assert_reads(load(make_model(), tmp_path), tmp_path)
    assert {layer.num_loras for layer in file.layers.values()} == {3}
    assert len({layer.r for layer in file.layers.values()}) > 1


@pytest.mark.parametrize("use_rslora", [False, True])
def test_lora_pairs_are_the_model_s(make_model: Make, tmp_path: Path, use_rslora: bool) -> None:
    save_adapter(make_model(), tmp_path, lora_config(use_rslora=use_rslora, **PATTERNS))
    file = assert_reads(load(make_model(), tmp_path), tmp_path)
    assert file.adapter_config.method == "lora"
    assert {layer.num_loras for layer in file.layers.values()} == {1}
    assert len({layer.alpha_over_r for layer in file.layers.values()}) > 1


def test_blocks_come_in_numerical_order() -> None:
    names = ["h.10.a", "h.2.b", "h.2.a", "h.1.z"]
    assert sorted(names, key=natural_order) == ["h.1.z", "h.2.a", "h.2.b", "h.10.a"]


def test_dtypes_are_those_of_the_file(tmp_path: Path) -> None:
    model = get_peft_model(
        small_module().bfloat16(), MultiLoraConfig(r=2, init_weights=False), autocast_adapter_dtype=False
    )
    model.save_pretrained(tmp_path)
    file = open_adapter(tmp_path)
    assert {layer.dtype for layer in file.layers.values()} == {torch.bfloat16}
    assert file.factors("first").lora_A.dtype == torch.bfloat16
    folded = file.folded("first")
    assert folded.lora_A.dtype == folded.lora_B.dtype == torch.float32


def test_tensors_of_other_kinds_are_listed_where_the_config_declares_them(make_llama: Make, tmp_path: Path) -> None:
    config = MultiLoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["lm_head"])
    get_peft_model(make_llama(), config).save_pretrained(tmp_path)
    file = open_adapter(tmp_path)
    assert file.other_tensors == ("base_model.model.lm_head.weight",)
    assert all(name.endswith("q_proj") for name in file.layers)


def test_opening_reads_no_numbers_and_reading_holds_one_layer(
    make_llama: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_adapter(make_llama(), tmp_path, MultiLoraConfig(r=4, init_weights=False))
    spy = Spy()
    monkeypatch.setattr(checkpoint, "safe_open", spy.open)
    file = open_adapter(tmp_path)
    assert spy.read == 0
    for name in file.layers:
        file.folded(name)
    assert spy.read == 3 * len(file.layers) == 42
    assert spy.most_alive <= 3


# What is refused ---------------------------------------------------------------------------------------------------


def refusal(folder: Path, match: str) -> None:
    with pytest.raises(InputError, match=match):
        open_adapter(folder)


def test_missing_folder_names_the_nearest(adapter: Path) -> None:
    refusal(adapter.with_name("adaptor"), r"no adapter folder .*nearest: 'adapter'")


def test_a_run_folder_names_the_adapter_in_it(adapter: Path) -> None:
    refusal(adapter.parent, r"not an adapter: it has no adapter_config.json; did you mean .*adapter'")


def test_missing_weights(adapter: Path) -> None:
    (adapter / WEIGHTS_FILE).unlink()
    refusal(adapter, "has no adapter_model.safetensors")


def test_pickles_are_never_read(adapter: Path) -> None:
    (adapter / WEIGHTS_FILE).rename(adapter / "adapter_model.bin")
    refusal(adapter, "pickle.*save it again")


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"[1]", "must be a JSON object"),
        (b" " * ((1 << 24) + 1), "bytes are too many"),
        (b'{"peft_type": "MULTILORA", "r": ' + b"9" * 5000 + b"}", "not JSON"),
    ],
)
def test_broken_configs(adapter: Path, content: bytes, match: str) -> None:
    (adapter / CONFIG_FILE).write_bytes(content)
    refusal(adapter, match)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"peft_type": "ADALORA"}, "peft_type is 'ADALORA'"),
        ({"peft_type": None}, "peft_type is None"),
        ({"r": None}, "r missing"),
        ({"num_loras": None}, "num_loras missing"),
        ({"r": 0}, "r must be an integer of at least 1; got 0"),
        ({"r": "3"}, "r must be an integer"),
        ({"r": 4}, r"second: .*lora_A \(6, 5\).* with num_loras=2, r=4.* \(2·4 = 8, d_in\)"),
        ({"num_loras": 3}, "num_loras=3, r=3"),
        ({"num_loras": 10**30}, "num_loras=10"),
        ({"rank_pattern": {"second": 4}}, "second: .*r=4"),
        ({"rank_pattern": {"(": 3}}, r"rank_pattern\['\('\] is not a regular expression"),
        ({"rank_pattern": ["second"]}, "rank_pattern|items"),
        ({"alpha_pattern": {"first": -1}}, "alpha_pattern"),
        ({"lora_alpha": 10**400}, "adapter_config.json: "),
        ({"scaling": "scalar"}, r"scaling \(2, 7\); .*scaling \(2,\)"),
        ({"scaling": "none"}, "unexpected tensor .*multilora_scaling"),
        ({"scaling": "vektor"}, "nearest: 'vector'"),
        ({"target_modules": 5}, "adapter_config.json: "),
        ({"target_modules": [5]}, "target_modules must be text"),
        ({"base_model_name_or_path": 5}, "base_model_name_or_path must be text"),
        ({"use_flux": 1}, "use_flux=1 is not a field .* Update"),
    ],
)
def test_multilora_configs_that_do_not_fit(adapter: Path, changes: dict[str, Any], match: str) -> None:
    change_config(adapter, **changes)
    refusal(adapter, match)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"use_dora": True}, "use_dora is set: DoRA"),
        ({"alora_invocation_tokens": [1]}, "aLoRA"),
        ({"arrow_config": {"top_k": 3}}, "arrow_config is set"),
        ({"lora_bias": True}, "lora_bias=True adds a bias"),
        ({"use_qalora": True}, "use_qalora"),
        ({"layer_replication": [[0, 2], [1, 3]]}, "layer_replication"),
        ({"target_parameters": ["experts.gate_up_proj"]}, "target_parameters"),
        ({"init_lora_weights": "pissa_niter_4"}, "changed the base weights .*path_initial_model"),
        ({"init_lora_weights": "loftq"}, "changed the base weights"),
        ({"lora_alpha": None}, "lora_alpha missing"),
        ({"lora_alpha": float("nan")}, "lora_alpha must be a positive number"),
        ({"use_rslora": "yes"}, "use_rslora must be true or false"),
        (
            {"r": 5},
            r"first: lora_A \(4, 8\), lora_B \(7, 4\); with r=5 lora_A must be \(5, d_in\), lora_B \(d_out, 5\)",
        ),
    ],
)
def test_loras_that_are_not_plain_pairs(lora: Path, changes: dict[str, Any], match: str) -> None:
    change_config(lora, **changes)
    refusal(lora, match)


@pytest.mark.parametrize("init", [True, False, "gaussian", "eva", "orthogonal", "mica"])
def test_inits_that_leave_the_base_alone_are_read(lora: Path, init: Any) -> None:
    change_config(lora, init_lora_weights=init)
    assert open_adapter(lora).layers.keys() == {"first", "second"}


def test_a_list_of_variants_that_a_later_peft_extends_is_peft_s_own() -> None:
    """The refusal reads PEFT's own marks; this notices if PEFT stops marking."""
    marked = {field.name for field in fields(LoraConfig) if field.metadata.get("is_lora_variant")}
    assert {"use_dora", "alora_invocation_tokens", "arrow_config"} <= marked


FIRST = "base_model.model.first"


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda t: t.pop(f"{FIRST}.multilora_A.weight"), "first: multilora_A.weight missing"),
        (lambda t: t.pop(f"{FIRST}.multilora_scaling.weight"), "first: multilora_scaling.weight missing"),
        (lambda t: t.clear() or t.update({"x": torch.zeros(1)}), "unexpected tensor 'x'"),
        (lambda t: t.clear(), "nothing was saved"),
        (lambda t: t.update({"base_model.model.embed.weight": torch.zeros(2, 2)}), "unexpected tensor .*embed.weight"),
        (lambda t: t.update({f"{FIRST}.multilora_A.default": torch.zeros(6, 8)}), "unexpected tensor"),
        (
            lambda t: t.update({"base_model.model.lm_head.base_layer.weight": torch.zeros(2, 2)}),
            "is a weight of the base model.*save_embedding_layers=False",
        ),
        (lambda t: t.update({f"{FIRST}.multilora_A.weight": torch.zeros(6)}), r"lora_A \(6,\)"),
        (lambda t: t.update({f"{FIRST}.multilora_A.weight": torch.zeros(6, 8, 1)}), r"lora_A \(6, 8, 1\)"),
        (lambda t: t.update({f"{FIRST}.multilora_A.weight": torch.zeros(6, 0)}), r"lora_A \(6, 0\)"),
        (lambda t: t.update({f"{FIRST}.multilora_B.weight": torch.zeros(7, 5)}), r"lora_B \(7, 5\)"),
        (lambda t: t.update({f"{FIRST}.multilora_B.weight": torch.zeros(())}), r"lora_B \(\)"),
        (lambda t: t.update({f"{FIRST}.multilora_scaling.weight": torch.zeros(2, 6)}), r"scaling \(2, 6\)"),
        (lambda t: t.update({f"{FIRST}.multilora_A.weight": torch.zeros(6, 8, dtype=torch.int32)}), "lora_A I32"),
    ],
)
def test_tensors_that_do_not_fit(adapter: Path, change: Callable[[dict[str, Tensor]], object], match: str) -> None:
    change_tensors(adapter, change)
    refusal(adapter, match)


def test_all_faulty_layers_are_named_at_once(adapter: Path) -> None:
    change_config(adapter, r=4)
    with pytest.raises(InputError) as caught:
        open_adapter(adapter)
    assert "first: " in str(caught.value)
    assert "second: " in str(caught.value)


@pytest.mark.parametrize(
    ("key", "match"),
    [
        ("lora_embedding_A", "adapts an embedding"),
        ("lora_magnitude_vector.weight", "belongs to DoRA"),
        ("lora_B.bias", "has no place"),
    ],
)
def test_tensors_of_lora_variants_are_explained(lora: Path, key: str, match: str) -> None:
    change_tensors(lora, lambda tensors: tensors.update({f"{FIRST}.{key}": torch.zeros(3)}))
    refusal(lora, match)


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
@pytest.mark.parametrize("kind", ["multilora_A", "multilora_B", "multilora_scaling"])
def test_numbers_that_are_not_finite_are_named_by_layer(adapter: Path, kind: str, number: float) -> None:
    change_tensors(adapter, lambda tensors: tensors[f"{FIRST}.{kind}.weight"].view(-1)[1:2].fill_(number))
    file = open_adapter(adapter)
    file.factors("second")
    with pytest.raises(InputError, match=f"{kind} of layer 'first' .* not finite"):
        file.factors("first")


def test_folding_that_overflows_is_named_by_layer(adapter: Path) -> None:
    change_config(adapter, scaling_function="linear", scaling_constant=1.0)  # tanh would keep it within bounds
    change_tensors(adapter, lambda tensors: tensors[f"{FIRST}.multilora_scaling.weight"].fill_(1e38))
    change_tensors(adapter, lambda tensors: tensors[f"{FIRST}.multilora_B.weight"].fill_(1e38))
    with pytest.raises(InputError, match="layer 'first' is so large"):
        open_adapter(adapter).folded("first")


def test_unknown_layer_names_the_nearest(adapter: Path) -> None:
    with pytest.raises(InputError, match="nearest: 'second'"):
        open_adapter(adapter).factors("secnd")


def file_with(header: bytes, size: int | None = None, data: bytes = b"") -> bytes:
    return (len(header) if size is None else size).to_bytes(8, "little") + header + data


def file_of(dtype: str, shape: list[int], offsets: list[int]) -> bytes:
    """A file of 4 bytes of data whose header tells this about them."""
    header = json.dumps({f"{FIRST}.multilora_A.weight": {"dtype": dtype, "shape": shape, "data_offsets": offsets}})
    return file_with(header.encode(), data=b"\x00" * 4)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x00" * 7,
        file_with(b"{}", size=1 << 30),
        file_with(b"{}", size=(1 << 64) - 1),
        file_with(b"x" * 64),
        file_with(b'{"a": 1}'),
        file_with(b"[]"),
        file_of("F32", [6, 8], [0, 192]),
        file_of("F32", [1 << 40, 1 << 40], [0, 4]),
        file_of("F32", [-1], [0, 4]),
        file_of("F32", [1], [4, 0]),
        file_of("F9", [1], [0, 4]),
    ],
)
def test_hostile_safetensors(adapter: Path, content: bytes) -> None:
    (adapter / WEIGHTS_FILE).write_bytes(content)
    refusal(adapter, "not a complete safetensors file")


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_truncated_safetensors(adapter: Path, share: float) -> None:
    content = (adapter / WEIGHTS_FILE).read_bytes()
    (adapter / WEIGHTS_FILE).write_bytes(content[: int(share * len(content))])
    refusal(adapter, "not a complete safetensors file")


SPOILED = settings(
    max_examples=examples(150), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def open_and_read(folder: Path) -> None:
    """All of it, or an InputError; any other exception is a fault."""
    try:
        file = open_adapter(folder)
        for name in file.layers:
            file.folded(name)
    except InputError:
        pass


@SPOILED
@given(place=st.floats(0, 1), byte=st.integers(0, 255), method=st.sampled_from(["multilora", "none", "lora"]))
def test_no_changed_byte_of_the_weights_is_a_crash(
    saved: Path, tmp_path: Path, place: float, byte: int, method: str
) -> None:
    folder = shutil.copytree(saved / method, tmp_path / "spoiled", dirs_exist_ok=True)
    content = bytearray((saved / method / WEIGHTS_FILE).read_bytes())
    content[int(place * 0.6 * (len(content) - 1))] = byte  # the header is about half of such a small file
    (folder / WEIGHTS_FILE).write_bytes(content)
    open_and_read(folder)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=4,
)


@SPOILED
@given(data=st.data(), value=json_values, method=st.sampled_from(["multilora", "none", "lora"]))
def test_no_value_in_the_config_is_a_crash(
    saved: Path, tmp_path: Path, data: st.DataObject, value: Any, method: str
) -> None:
    folder = shutil.copytree(saved / method, tmp_path / "spoiled", dirs_exist_ok=True)
    config = json.loads((folder / CONFIG_FILE).read_text())
    field = data.draw(st.sampled_from(sorted(config)))
    (folder / CONFIG_FILE).write_text(json.dumps(config | {field: value}))
    open_and_read(folder)
