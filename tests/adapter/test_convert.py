"""Laws of the conversions: exported = adapted, from_lora = the LoRA, truncation is the best there is."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file
from torch import Tensor
from transformers import PreTrainedModel

import children
from adapter_files import (
    assert_same_logits,
    change_config,
    change_tensors,
    load,
    logits,
    lora_config,
    read_config,
    save_adapter,
    tokens,
)
from disk_events import Moment, die_at, failing_at
from multilora import InputError, MultiLoraConfig, export_lora, from_lora
from multilora.adapter import file as checkpoint
from multilora.adapter.config import CONFIG_FILE
from multilora.adapter.file import WEIGHTS_FILE, open_adapter
from multilora.tuner.linear import MultiLoraLinear

Make = Callable[..., PreTrainedModel]
PATTERNS = {
    "rank_pattern": {"q_proj": 2, "c_attn": 3, r".*\.1\.mlp\..*": 7},
    "alpha_pattern": {"v_proj": 5, "c_fc": 9},
}


@pytest.fixture(params=["llama", "gpt2"])
def make_model(request: pytest.FixtureRequest) -> Make:
    return request.getfixturevalue(f"make_{request.param}")


def multilora(**arguments: Any) -> MultiLoraConfig:
    return MultiLoraConfig(**({"r": 4, "num_loras": 3, "lora_alpha": 6, "init_weights": False} | arguments))


def deltas(folder: Path) -> dict[str, Tensor]:
    """ΔW of every layer in fp64."""
    file = open_adapter(folder)
    return {name: file.folded(name).to(torch.float64).delta() for name in file.layers}


def assert_same_deltas(ours: Path, expected: Path, tolerance: float) -> None:
    left, right = deltas(ours), deltas(expected)
    assert left.keys() == right.keys()
    for name, delta in right.items():
        assert (left[name] - delta).norm() <= tolerance * delta.norm()


# export_lora is exact ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [{}, PATTERNS, {"num_loras": 1, "r": 16}], ids=["plain", "patterns", "n=1"])
@pytest.mark.parametrize("scaling", ["vector", "scalar", "none"])
def test_exported_is_adapted(make_model: Make, tmp_path: Path, scaling: Any, arguments: dict[str, Any]) -> None:
    adapted = save_adapter(make_model(), tmp_path / "a", multilora(scaling=scaling, **arguments))
    report = export_lora(tmp_path / "a", tmp_path / "out")
    model = load(make_model(), tmp_path / "out")
    assert_same_logits(logits(model), adapted)
    assert_same_logits(logits(model.merge_and_unload()), adapted)
    assert report.truncated_to is None
    assert report.relative_error == 0
    assert all(layer.rank == layer.total_rank and layer.relative_error == 0 for layer in report.layers)


@pytest.mark.parametrize("use_rslora", [False, True])
def test_a_plain_lora_becomes_portable(make_model: Make, tmp_path: Path, use_rslora: bool) -> None:
    adapted = save_adapter(make_model(), tmp_path / "a", lora_config(use_rslora=use_rslora, **PATTERNS))
    export_lora(tmp_path / "a", tmp_path / "out")
    config = read_config(tmp_path / "out")
    assert {"use_rslora": False, "rank_pattern": {}, "alpha_pattern": {}}.items() <= config.items()
    assert_same_logits(logits(load(make_model(), tmp_path / "out")), adapted)


def test_the_form_is_the_portable_one(make_llama: Make, tmp_path: Path) -> None:
    config = multilora(rank_pattern={"v_proj": 6}, alpha_pattern={"o_proj": 3}, lora_dropout=0.1, task_type="CAUSAL_LM")
    base = make_llama()
    base.name_or_path = "somebody/some-model"
    save_adapter(base, tmp_path / "a", config)
    change_config(tmp_path / "a", revision="main")
    report = export_lora(tmp_path / "a", tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["README.md", CONFIG_FILE, WEIGHTS_FILE]

    told = read_config(tmp_path / "out")
    assert report.rank == 32  # 3 · 6 = 18, up to a multiple of 16
    assert {"r": 32, "lora_alpha": 32, "rank_pattern": {}, "alpha_pattern": {}}.items() <= told.items()
    assert type(told["r"]) is type(told["lora_alpha"]) is int
    assert (told["bias"], told["modules_to_save"], told["init_lora_weights"]) == ("none", None, True)
    assert (told["peft_type"], told["task_type"]) == ("LORA", "CAUSAL_LM")
    assert (told["base_model_name_or_path"], told["revision"]) == ("somebody/some-model", "main")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        LoraConfig(**told)

    tensors = load_file(tmp_path / "out" / WEIGHTS_FILE)
    adapter = open_adapter(tmp_path / "a")
    assert tensors.keys() == {
        f"base_model.model.{name}.{kind}.weight" for name in adapter.layers for kind in ("lora_A", "lora_B")
    }
    for name, layer in adapter.layers.items():
        assert tensors[f"base_model.model.{name}.lora_A.weight"].shape == (32, layer.d_in)
        assert tensors[f"base_model.model.{name}.lora_B.weight"].shape == (layer.d_out, 32)
        assert not tensors[f"base_model.model.{name}.lora_A.weight"][layer.total_rank :].any()
        assert not tensors[f"base_model.model.{name}.lora_B.weight"][:, layer.total_rank :].any()
    numbers = sum(32 * (layer.d_in + layer.d_out) for layer in adapter.layers.values())
    content = (tmp_path / "out" / WEIGHTS_FILE).read_bytes()
    assert report.size == len(content) == 8 + int.from_bytes(content[:8], "little") + 4 * numbers
    assert json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])["__metadata__"] == {"format": "pt"}


def test_the_same_adapter_gives_the_same_bytes(make_llama: Make, tmp_path: Path) -> None:
    save_adapter(make_llama(), tmp_path / "a", multilora())
    for out in ("one", "two"):
        export_lora(tmp_path / "a", tmp_path / out, rank=5)
    for file in (CONFIG_FILE, WEIGHTS_FILE):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


@pytest.mark.parametrize("dtype", ["float32", torch.bfloat16, "float16", "float64"])
def test_the_cast_comes_last(make_llama: Make, tmp_path: Path, dtype: Any) -> None:
    save_adapter(make_llama(), tmp_path / "a", multilora())
    report = export_lora(tmp_path / "a", tmp_path / "out", dtype=dtype)
    expected = getattr(torch, dtype) if isinstance(dtype, str) else dtype
    assert {tensor.dtype for tensor in load_file(tmp_path / "out" / WEIGHTS_FILE).values()} == {expected}
    assert report.dtype == expected
    adapter, exported = open_adapter(tmp_path / "a"), open_adapter(tmp_path / "out")
    for name, layer in adapter.layers.items():
        one, other = exported.folded(name), adapter.folded(name)
        for ours, folded in ((one.lora_A, other.lora_A), (one.lora_B, other.lora_B)):
            kept = ours[: layer.total_rank] if ours.shape[0] == report.rank else ours[:, : layer.total_rank]
            # One rounding of the folded fp32 number, and no other.
            assert (kept.double() - folded.double()).abs().max() <= torch.finfo(expected).eps / 2 * folded.abs().max()


def test_by_default_the_dtype_is_the_adapter_s(make_llama: Make, tmp_path: Path) -> None:
    model = get_peft_model(make_llama().bfloat16(), multilora(), autocast_adapter_dtype=False)
    model.save_pretrained(tmp_path / "a")
    assert export_lora(tmp_path / "a", tmp_path / "out").dtype == torch.bfloat16
    # Each number is rounded once: relative error of ΔW about 2^-9, from B' alone.
    assert_same_deltas(tmp_path / "out", tmp_path / "a", 2**-8)


BLOCKED = """
import sys
sys.modules["multilora"] = None
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM
for folder in sys.argv[1:]:
    model = AutoModelForCausalLM.from_pretrained(f"{folder}/base")
    model = PeftModel.from_pretrained(model, f"{folder}/out").eval()
    tokens = torch.load(f"{folder}/tokens.pt", weights_only=True)
    with torch.no_grad():
        logits = model(tokens, use_cache=False).logits
    torch.save(logits, f"{folder}/logits.pt")
"""


def test_peft_loads_it_where_this_package_is_missing(make_llama: Make, make_gpt2: Make, tmp_path: Path) -> None:
    expected: dict[str, Tensor] = {}
    for name, make in {"llama": make_llama, "gpt2": make_gpt2}.items():
        make().save_pretrained(tmp_path / name / "base")
        base = type(make()).from_pretrained(tmp_path / name / "base")
        torch.save(tokens(base), tmp_path / name / "tokens.pt")
        expected[name] = save_adapter(base, tmp_path / name / "a", multilora(**PATTERNS))
        export_lora(tmp_path / name / "a", tmp_path / name / "out")
    folders = [str(tmp_path / name) for name in expected]
    subprocess.run([sys.executable, "-c", BLOCKED, *folders], check=True, capture_output=True)
    for name, logits_of_adapted in expected.items():
        loaded = torch.load(tmp_path / name / "logits.pt", weights_only=True)
        assert_same_logits(loaded, logits_of_adapted)


# target_modules ----------------------------------------------------------------------------------------------------


def lora_layers(model: PeftModel) -> set[str]:
    return {name for name, module in model.base_model.model.named_modules() if isinstance(module, LoraLayer)}


@pytest.mark.parametrize("base_is_here", [True, False])
@pytest.mark.parametrize(
    ("arguments", "short"),
    [
        ({"target_modules": ["q_proj", "mlp.down_proj"]}, ["mlp.down_proj", "q_proj"]),
        ({"target_modules": "all-linear"}, "down gate k o q up v"),
        ({"target_modules": "all-linear", "exclude_modules": ["k_proj"]}, "down gate o q up v"),
        ({"target_modules": r".*\.(q|v)_proj"}, "q v"),
        ({"target_modules": ["q_proj", "v_proj"], "layers_to_transform": [1]}, None),
        ({"target_modules": r".*\.0\.mlp\..*_proj"}, None),
        ({"target_modules": ["layers.1.mlp.up_proj", "k_proj"]}, ["k_proj", "layers.1.mlp.up_proj"]),
        (
            {"target_modules": "all-linear", "blocks": 3},
            [f"{name}_proj" for name in ["down", "gate", "k", "o", "q", "up", "v"]],
        ),
        ({"target_modules": ["q_proj"], "layers_to_transform": [0, 2], "blocks": 3}, None),
        ({"target_modules": ["q_proj"], "exclude_modules": ["layers.1.self_attn.q_proj"], "blocks": 3}, None),
    ],
)
def test_targets_match_the_adapted_layers_and_no_others(
    make_llama: Make, tmp_path: Path, arguments: dict[str, Any], short: Any, base_is_here: bool
) -> None:
    blocks = arguments.get("blocks", 2)
    base = make_llama(num_hidden_layers=blocks)
    if base_is_here:
        base.save_pretrained(tmp_path / "base")
    base.name_or_path = str(tmp_path / "base")
    config = multilora(**{name: value for name, value in arguments.items() if name != "blocks"})
    adapted = save_adapter(base, tmp_path / "a", config)
    export_lora(tmp_path / "a", tmp_path / "out")
    layers = open_adapter(tmp_path / "a").layers.keys()
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "(?i).*(missing|unexpected|did not match)")  # of layers, tensors, targets
        model = load(make_llama(num_hidden_layers=blocks), tmp_path / "out")
    assert lora_layers(model) == layers
    assert_same_logits(logits(model), adapted)
    targets = read_config(tmp_path / "out")["target_modules"]
    assert targets == sorted(targets)
    if isinstance(short, list):
        assert targets == short  # the adapter's own list says it all
    elif short and base_is_here:
        assert targets == [f"{name}_proj" for name in short.split()]
    else:
        assert targets == sorted(layers)


@pytest.mark.parametrize("base_is_here", [True, False])
def test_conv1d(make_gpt2: Make, tmp_path: Path, base_is_here: bool) -> None:
    base = make_gpt2()
    if base_is_here:
        base.save_pretrained(tmp_path / "base")
    base.name_or_path = str(tmp_path / "base")
    adapted = save_adapter(base, tmp_path / "a", multilora(target_modules=r".*\.mlp\.c_proj"))
    export_lora(tmp_path / "a", tmp_path / "out")
    told = read_config(tmp_path / "out")
    assert told["fan_in_fan_out"] is base_is_here
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = load(make_gpt2(), tmp_path / "out")
    corrected = [warning for warning in caught if "fan_in_fan_out" in str(warning.message)]
    assert bool(corrected) is not base_is_here  # PEFT sees Conv1D and corrects the flag
    assert_same_logits(logits(model), adapted)
    assert_same_logits(logits(model.merge_and_unload()), adapted)
    full = ["transformer.h.0.mlp.c_proj", "transformer.h.1.mlp.c_proj"]
    assert told["target_modules"] == (["mlp.c_proj"] if base_is_here else full)


def test_a_base_that_cannot_be_built_costs_only_the_short_names(make_llama: Make, tmp_path: Path) -> None:
    base = make_llama()
    base.name_or_path = str(tmp_path / "base")
    save_adapter(base, tmp_path / "a", multilora())
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "config.json").write_text('{"model_type": "llama", "hidden_size": "wide"}')
    export_lora(tmp_path / "a", tmp_path / "out")
    assert read_config(tmp_path / "out")["target_modules"] == sorted(open_adapter(tmp_path / "a").layers)


# Truncation --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rank", [1, 5, 8, 12])
def test_truncation_is_the_optimum_and_told_as_measured(make_model: Make, tmp_path: Path, rank: int) -> None:
    save_adapter(make_model(), tmp_path / "a", multilora(rank_pattern={"q_proj": 2, "c_fc": 2}))
    report = export_lora(tmp_path / "a", tmp_path / "out", rank=rank)
    before, after = deltas(tmp_path / "a"), deltas(tmp_path / "out")
    cut = all_ = 0.0
    for layer in report.layers:
        dense = before[layer.name]
        measured = float((dense - after[layer.name]).norm() / dense.norm())
        singular = torch.linalg.svdvals(dense)
        optimum = float(singular[rank:].norm() / singular.norm())
        assert layer.rank == min(rank, layer.total_rank)
        assert measured == pytest.approx(layer.relative_error, abs=1e-6)
        assert optimum == pytest.approx(layer.relative_error, abs=1e-6)
        assert (layer.relative_error > 0.01) is (rank < layer.total_rank)
        cut, all_ = cut + float((dense - after[layer.name]).norm() ** 2), all_ + float(dense.norm() ** 2)
    assert report.relative_error == pytest.approx((cut / all_) ** 0.5, abs=1e-6)
    assert report.rank == 16
    assert report.truncated_to == rank
    assert read_config(tmp_path / "out")["r"] == 16


def test_truncated_to_the_rank_that_it_has_nothing_is_lost(make_llama: Make, tmp_path: Path) -> None:
    """A rank-deficient adapter: three equal modules."""
    save_adapter(make_llama(), tmp_path / "a", multilora(scaling="none"))

    def equal_modules(tensors: dict[str, Tensor]) -> None:
        for name, tensor in tensors.items():
            if name.endswith("multilora_A.weight"):
                tensor.copy_(tensor[:4].repeat(3, 1))

    change_tensors(tmp_path / "a", equal_modules)
    report = export_lora(tmp_path / "a", tmp_path / "out", rank=4)
    assert report.relative_error < 1e-7
    assert_same_deltas(tmp_path / "out", tmp_path / "a", 1e-6)


def test_the_error_of_a_zero_adapter_is_zero(make_llama: Make, tmp_path: Path) -> None:
    get_peft_model(make_llama(), MultiLoraConfig(r=4)).save_pretrained(tmp_path / "a")
    report = export_lora(tmp_path / "a", tmp_path / "out", rank=2)
    assert {layer.relative_error for layer in report.layers} == {report.relative_error} == {0.0}
    assert all(not delta.any() for delta in deltas(tmp_path / "out").values())


@pytest.mark.parametrize(
    ("rank", "match"),
    [(0, "rank must be an integer of at least 1; got 0"), (-3, "got -3"), (2.5, "got 2.5"), (13, "total rank 12")],
)
def test_ranks_out_of_range(make_llama: Make, tmp_path: Path, rank: Any, match: str) -> None:
    save_adapter(make_llama(), tmp_path / "a", multilora())
    with pytest.raises(InputError, match=match):
        export_lora(tmp_path / "a", tmp_path / "out", rank=rank)
    assert not (tmp_path / "out").exists()


# Refusals ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"modules_to_save": ["lm_head"]}, "modules_to_save=.*whole modules were trained"),
        ({"bias": "all"}, "bias='all': biases were trained"),
        ({"trainable_token_indices": [1, 2]}, "trainable_token_indices"),
    ],
)
@pytest.mark.parametrize("method", ["multilora", "lora"])
def test_what_a_lora_cannot_say_is_refused(
    make_gpt2: Make, tmp_path: Path, method: str, arguments: dict[str, Any], match: str
) -> None:
    config = multilora(**arguments) if method == "multilora" else lora_config(**arguments)
    get_peft_model(make_gpt2(), config).save_pretrained(tmp_path / "a")
    with pytest.raises(InputError, match=match):
        export_lora(tmp_path / "a", tmp_path / "out")
    if method == "lora":
        with pytest.raises(InputError, match=match):
            from_lora(tmp_path / "a", tmp_path / "out", 2)
    assert not (tmp_path / "out").exists()


@pytest.fixture
def adapter(make_llama: Make, tmp_path: Path) -> Path:
    save_adapter(make_llama(), tmp_path / "a", multilora())
    return tmp_path / "a"


def test_numbers_that_do_not_fit_the_dtype_are_refused(adapter: Path, tmp_path: Path) -> None:
    change_tensors(adapter, lambda tensors: next(iter(tensors.values())).fill_(1e5))
    with pytest.raises(InputError, match=r"layer '.*layers.0.*' does not fit into float16: .* 1e\+05"):
        export_lora(adapter, tmp_path / "out", dtype="float16")
    assert_nothing_left(tmp_path)


@pytest.mark.parametrize("dtype", ["float8", torch.int8, "bfloat"])
def test_unknown_dtypes_are_refused(adapter: Path, tmp_path: Path, dtype: Any) -> None:
    with pytest.raises(InputError, match="dtype must be one of float64, float32, float16, bfloat16"):
        export_lora(adapter, tmp_path / "out", dtype=dtype)


def test_numbers_that_are_not_finite_leave_nothing(adapter: Path, tmp_path: Path) -> None:
    change_tensors(adapter, lambda tensors: list(tensors.values())[-1].view(-1)[:1].fill_(float("nan")))
    with pytest.raises(InputError, match="not finite"):
        export_lora(adapter, tmp_path / "out")
    assert_nothing_left(tmp_path)


def assert_nothing_left(folder: Path) -> None:
    assert [path.name for path in folder.iterdir()] == ["a"]


# The output folder -------------------------------------------------------------------------------------------------


def test_the_adapter_s_own_folder_is_refused(adapter: Path) -> None:
    with pytest.raises(InputError, match="is the adapter's own"):
        export_lora(adapter, adapter / ".." / "a", overwrite=True)


def test_an_empty_folder_and_missing_parents_are_fine(adapter: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    export_lora(adapter, tmp_path / "empty")
    export_lora(adapter, tmp_path / "some" / "where" / "new")
    assert_same_deltas(tmp_path / "empty", tmp_path / "some" / "where" / "new", 0)


def test_a_folder_with_files_is_refused_and_then_overwritten(adapter: Path, tmp_path: Path) -> None:
    export_lora(adapter, tmp_path / "out", rank=2)
    with pytest.raises(InputError, match=r"not empty \(it has README.md, adapter_config.json, .*--overwrite"):
        export_lora(adapter, tmp_path / "out")
    export_lora(adapter, tmp_path / "out", overwrite=True)
    assert_same_deltas(tmp_path / "out", adapter, 1e-6)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "out"]


def test_overwriting_never_takes_other_files_along(adapter: Path, tmp_path: Path) -> None:
    export_lora(adapter, tmp_path / "out", rank=2)
    (tmp_path / "out" / "thesis.tex").write_text("years of work")
    with pytest.raises(InputError, match=r"overwriting would lose: thesis.tex"):
        export_lora(adapter, tmp_path / "out", overwrite=True)
    assert (tmp_path / "out" / "thesis.tex").read_text() == "years of work"
    with pytest.raises(InputError, match="overwriting would lose: a, out"):
        export_lora(adapter, tmp_path, overwrite=True)


def test_a_file_in_the_way_is_refused(adapter: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(InputError, match=r"is a file|cannot create the output folder"):
            export_lora(adapter, out, overwrite=True)


def test_a_link_to_a_folder_stays_one(adapter: Path, tmp_path: Path) -> None:
    export_lora(adapter, tmp_path / "real", rank=2)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    export_lora(adapter, tmp_path / "link", overwrite=True)
    assert (tmp_path / "link").is_symlink()
    assert_same_deltas(tmp_path / "real", adapter, 1e-6)


def test_an_error_while_writing_leaves_the_former_export(adapter: Path, tmp_path: Path) -> None:
    export_lora(adapter, tmp_path / "out", rank=2)
    former = (tmp_path / "out" / WEIGHTS_FILE).read_bytes()
    full = failing_at(Moment("adapter_config.json", "write"), OSError("disk full"))
    with full, pytest.raises(OSError, match="disk full"):
        export_lora(adapter, tmp_path / "out", overwrite=True)
    assert (tmp_path / "out" / WEIGHTS_FILE).read_bytes() == former
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "out"]


# A moment of an export, and whether its output folder is there after a kill, over nothing and over an earlier export.
MOMENTS = {
    "before the weights": (Moment("adapter_model.safetensors", "write"), False, True),
    "in the middle of the weights": (7, False, True),  # layers
    "before the configuration": (Moment("adapter_config.json", "write"), False, True),
    "before the folder gets its name": (Moment(".out.incomplete", "rename"), False, False),
    "before the earlier folder leaves its place": (Moment("place/out", "rename"), True, True),
}


def _export(adapter: Path, out: Path, moment: Moment | int, overwrite: bool) -> None:
    """In the child."""
    if isinstance(moment, Moment):
        die_at(moment)
    else:
        folded, layers = checkpoint.AdapterFile.folded, iter(range(moment))

        def counted(file: Any, layer: str) -> Any:
            return os.kill(os.getpid(), signal.SIGKILL) if next(layers, None) is None else folded(file, layer)

        checkpoint.AdapterFile.folded = counted
    export_lora(adapter, out, overwrite=overwrite)


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("name", MOMENTS)
def test_a_kill_at_any_moment_leaves_no_half_folder(adapter: Path, tmp_path: Path, name: str, overwrite: bool) -> None:
    moment, *there = MOMENTS[name]
    out = tmp_path / "place" / "out"
    out.parent.mkdir()
    if overwrite:
        export_lora(adapter, out, rank=2)
    former = (out / WEIGHTS_FILE).read_bytes() if overwrite else b""
    process = children.start(_export, adapter, out, moment, overwrite)
    process.join(60)
    if name == "before the earlier folder leaves its place" and not overwrite:  # there is none: the export is complete
        assert process.exitcode == 0
    else:
        assert process.exitcode == -signal.SIGKILL
    assert out.exists() == there[overwrite]
    if overwrite:  # between the two renames the earlier folder is beside, complete
        kept = out if out.exists() else out.with_name(".out.replaced")
        assert (kept / WEIGHTS_FILE).read_bytes() == former
    export_lora(adapter, out, overwrite=overwrite or out.exists())
    assert_same_deltas(out, adapter, 1e-6)
    assert [path.name for path in out.parent.iterdir()] == ["out"]


# from_lora ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scaling", ["vector", "scalar", "none"])
@pytest.mark.parametrize(
    ("arguments", "num_loras"),
    [({"r": 6}, 3), ({"r": 6, "use_rslora": True}, 2), ({"r": 6, **PATTERNS}, 3), ({"r": 5, "use_rslora": True}, 1)],
)
def test_from_lora_is_the_lora(
    make_model: Make, tmp_path: Path, arguments: dict[str, Any], num_loras: int, scaling: Any
) -> None:
    adapted = save_adapter(make_model(), tmp_path / "lora", lora_config(**arguments))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the patterns' ranks, which 3 does not divide
        report = from_lora(tmp_path / "lora", tmp_path / "multi", num_loras, scaling=scaling)
    model = load(make_model(), tmp_path / "multi")
    assert_same_logits(logits(model), adapted)
    config = model.peft_config["default"]
    assert isinstance(config, MultiLoraConfig)
    assert (config.num_loras, config.r, config.scaling) == (num_loras, report.r, scaling)
    assert report.layers == len([module for module in model.modules() if isinstance(module, MultiLoraLinear)])


@pytest.mark.parametrize("num_loras", [1, 2, 3, 4, 7])
def test_from_lora_and_back_is_the_same_delta_weight(make_llama: Make, tmp_path: Path, num_loras: int) -> None:
    save_adapter(make_llama(), tmp_path / "lora", lora_config(r=4, **PATTERNS))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from_lora(tmp_path / "lora", tmp_path / "multi", num_loras)
    export_lora(tmp_path / "multi", tmp_path / "back")
    assert_same_deltas(tmp_path / "back", tmp_path / "lora", 1e-6)


def test_half_precision_loses_nothing_by_folding(make_llama: Make, tmp_path: Path) -> None:
    config = lora_config(r=6, lora_alpha=7)  # 7/6 has no exact half-precision product
    get_peft_model(make_llama().bfloat16(), config, autocast_adapter_dtype=False).save_pretrained(tmp_path / "lora")
    from_lora(tmp_path / "lora", tmp_path / "multi", 3)
    assert_same_deltas(tmp_path / "multi", tmp_path / "lora", 1e-6)


def test_padding_is_said_changes_nothing_and_learns(make_llama: Make, tmp_path: Path) -> None:
    adapted = save_adapter(make_llama(), tmp_path / "lora", lora_config(r=4))
    with pytest.warns(
        UserWarning, match="14 layers have a rank that 3 modules cannot share equally .*: 4.* multiple .6"
    ):
        report = from_lora(tmp_path / "lora", tmp_path / "multi", 3)
    assert report.r == 2
    assert len(report.padded) == 14
    model = PeftModel.from_pretrained(make_llama(), tmp_path / "multi", is_trainable=True)
    assert_same_logits(logits(model.eval()), adapted)
    tokens = torch.arange(1, 12).unsqueeze(0)
    model(tokens, labels=tokens).loss.backward()
    for module in model.modules():
        if isinstance(module, MultiLoraLinear):
            assert module.multilora_scaling["default"].weight.eq(1).all()
            assert module.multilora_scaling["default"].weight.grad[:2].abs().sum() > 0
            assert not module.multilora_B["default"].weight[:, 4:].any()
            assert module.multilora_B["default"].weight.grad[:, 4:].abs().sum() > 0  # the padding, too
            assert module.multilora_A["default"].weight[4:].abs().sum() > 0


def test_the_padding_is_a_function_of_the_seed(make_llama: Make, tmp_path: Path) -> None:
    save_adapter(make_llama(), tmp_path / "lora", lora_config(r=4))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, seed in (("one", 1), ("same", 1), ("other", 2)):
            from_lora(tmp_path / "lora", tmp_path / name, 3, seed=seed)
    one, same, other = ((tmp_path / name / WEIGHTS_FILE).read_bytes() for name in ("one", "same", "other"))
    assert one == same != other


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"num_loras": 0}, "num_loras must be an integer of at least 1; got 0"),
        ({"num_loras": 2.0}, "num_loras must be an integer"),
        ({"num_loras": 2, "scaling": "matrix"}, "scaling must be one of"),
    ],
)
def test_from_lora_refuses_bad_arguments(make_llama: Make, tmp_path: Path, arguments: Any, match: str) -> None:
    save_adapter(make_llama(), tmp_path / "lora", lora_config())
    with pytest.raises(InputError, match=match):
        from_lora(tmp_path / "lora", out_dir=tmp_path / "multi", **arguments)
    assert not (tmp_path / "multi").exists()


def test_the_order_of_old_is_recognised(make_llama: Make, tmp_path: Path) -> None:
    save_adapter(make_llama(), tmp_path / "lora", lora_config())
    old: Any = (tmp_path / "lora", 2, tmp_path / "multi")
    with pytest.raises(InputError, match=r"the folder to create second.*from_lora\('.*lora', .*multi.*, num_loras=2\)"):
        from_lora(*old)
    assert not (tmp_path / "multi").exists()
    from_lora(num_loras=2, out_dir=tmp_path / "multi", adapter_dir=tmp_path / "lora")  # by name, in any order
    assert_same_deltas(tmp_path / "multi", tmp_path / "lora", 1e-6)


def test_from_lora_refuses_dora(make_llama: Make, tmp_path: Path) -> None:
    get_peft_model(make_llama(), lora_config(use_dora=True)).save_pretrained(tmp_path / "dora")
    with pytest.raises(InputError, match="DoRA"):
        from_lora(tmp_path / "dora", tmp_path / "multi", 2)


def test_from_lora_refuses_a_multilora(adapter: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="MultiLoRA adapter already"):
        from_lora(adapter, tmp_path / "multi", 2)


def test_memory_holds_one_layer_at_a_time(adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from adapter_files import Spy

    spy = Spy()
    monkeypatch.setattr(checkpoint, "safe_open", spy.open)
    export_lora(adapter, tmp_path / "out")
    assert spy.read == 42
    assert spy.most_alive <= 4  # one layer's three, and the former layer's A while they are read
