"""`multilora export` and `multilora targets`: what the terminal shows, exit codes, and the example script."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from peft import PeftModel
from transformers import AutoModelForCausalLM, PhimoeConfig, PhimoeForCausalLM, PreTrainedModel

from adapter_files import assert_same_logits, logits, save_adapter
from console import Run, multilora
from multilora import InputError, MultiLoraConfig, export_lora
from multilora.adapter.export import FORMATS
from multilora.adapter.exporting import ExportReport, LayerExport, export_as
from multilora.adapter.portable import portable_rank, vllm_max_lora_rank
from multilora.base.targets import list_targets
from multilora_cli import adapters
from multilora_cli.show import error_table

Make = Callable[..., PreTrainedModel]


@pytest.fixture
def run() -> Run:
    """The console script in this process: exit code, stdout, stderr."""
    return partial(multilora, columns=100)


@pytest.fixture
def base(make_llama: Make, tmp_path: Path) -> Path:
    make_llama().save_pretrained(tmp_path / "base")
    return tmp_path / "base"


@pytest.fixture
def adapter(base: Path, tmp_path: Path) -> Path:
    model = AutoModelForCausalLM.from_pretrained(base)
    save_adapter(model, tmp_path / "adapter", MultiLoraConfig(r=4, num_loras=3, init_weights=False))
    return tmp_path / "adapter"


# export ------------------------------------------------------------------------------------------------------------


def test_export_says_where_what_and_how(run: Run, adapter: Path, base: Path, tmp_path: Path) -> None:
    code, out, _ = run("export", adapter, tmp_path / "out")
    assert code == 0
    assert f"exported {tmp_path / 'out'}" in out
    assert "rank 16 (12, padded with zeros to a multiple of 16); exact; 14 layers, float32" in out
    assert "--max-lora-rank 16" in out
    assert str(base) in out


def test_the_two_lines_load_it(run: Run, adapter: Path, base: Path, tmp_path: Path) -> None:
    """They are what is printed, and they run."""
    report = export_lora(adapter, tmp_path / "out")
    _, out, _ = run("export", adapter, tmp_path / "out", "--overwrite")
    names = {"AutoModelForCausalLM": AutoModelForCausalLM, "PeftModel": PeftModel}
    for line in FORMATS["peft"].loading_lines(report):
        assert line in out
        exec(line, names)
    adapted = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapter)
    assert_same_logits(logits(names["model"].eval()), logits(adapted.eval()))


def test_truncation_prints_every_layer_s_error(run: Run, adapter: Path, tmp_path: Path) -> None:
    report = export_lora(adapter, tmp_path / "same", rank=5)
    code, out, _ = run("export", adapter, tmp_path / "out", "--rank", "5", "--dtype", "bfloat16")
    assert code == 0
    for layer in report.layers:
        assert f"{100 * layer.relative_error:.2f}" in out
    assert f"over all layers {100 * report.relative_error:.2f} %" in out
    assert "q_proj" in out
    assert "rank 16 (5, padded with zeros to a multiple of 16); truncated to rank 5; 14 layers, bfloat16" in out


def test_for_mlx_it_says_how_mlx_lm_loads_it(run: Run, adapter: Path, base: Path, tmp_path: Path) -> None:
    code, out, _ = run("export", adapter, tmp_path / "out", "--format", "mlx", "--dtype", "bfloat16")
    assert code == 0
    assert "MLX adapter, rank 12; exact; 14 layers, bfloat16" in out
    assert f"load({str(base)!r}, adapter_path={str(tmp_path / 'out')!r})" in out
    assert f"mlx_lm.server --model {base} --adapter-path {tmp_path / 'out'}" in out
    assert "--max-lora-rank" not in out
    assert (tmp_path / "out" / "adapters.safetensors").is_file()


def test_the_base_model_can_be_named_for_mlx(run: Run, adapter: Path, base: Path, tmp_path: Path) -> None:
    base.rename(tmp_path / "moved")
    code, out, err = run("export", adapter, tmp_path / "out", "--format", "mlx")
    assert (code, out) == (2, "")
    assert "--base" in err
    code, out, _ = run("export", adapter, tmp_path / "out", "--format", "mlx", "--base", tmp_path / "moved")
    assert code == 0
    assert f"--model {tmp_path / 'moved'}" in out


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (["ADAPTER", "OUT", "--format", "gguf"], "gguf"),
        (["ADAPTER", "OUT", "--base", "BASE"], "--base is read for --format mlx"),
        (["ADAPTER", "BASE", "--format", "mlx"], "is not empty"),
        (["NOWHERE", "OUT"], "no adapter folder"),
        (["ADAPTER", "BASE"], "is not empty"),
        (["ADAPTER", "BASE", "--overwrite"], "overwriting would lose"),
        (["ADAPTER", "OUT", "--rank", "0"], "rank must be an integer of at least 1"),
        (["ADAPTER", "OUT", "--rank", "99"], "above the adapter's total rank 12"),
        (["ADAPTER", "OUT", "--dtype", "int8"], "int8"),
        (["BASE", "OUT"], "is not an adapter"),
    ],
)
def test_bad_input_is_one_message_and_exit_code_2(
    run: Run, adapter: Path, base: Path, tmp_path: Path, arguments: list[str], match: str
) -> None:
    places = {"ADAPTER": adapter, "BASE": base, "OUT": tmp_path / "out", "NOWHERE": tmp_path / "nowhere"}
    before = sorted(path.name for path in base.iterdir())
    code, out, err = run("export", *(places.get(argument, argument) for argument in arguments))
    assert code == 2
    assert match in err
    assert "Traceback" not in err
    assert not out
    assert not (tmp_path / "out").exists()
    assert sorted(path.name for path in base.iterdir()) == before


def layer(name: str, error: float = 0.5) -> LayerExport:
    return LayerExport(name, 8, 4, error)


def test_the_table_has_a_row_per_block() -> None:
    names = [f"model.layers.{i}.{kind}" for i in (0, 1, 10) for kind in ("self_attn.q_proj", "mlp.up_proj")]
    table = error_table([*map(layer, names[:-1]), layer(names[-1], 0.0)])
    assert table.columns == ("block", "q_proj", "up_proj")
    assert table.rows == (("0", "50.00", "50.00"), ("1", "50.00", "50.00"), ("10", "50.00", "0"))


def test_the_table_s_headings_tell_equal_endings_apart() -> None:
    table = error_table([layer("h.0.attn.c_proj"), layer("h.0.mlp.c_proj"), layer("h.1.mlp.c_proj")])
    assert table.columns == ("block", "attn.c_proj", "mlp.c_proj")
    assert table.rows == (("0", "50.00", "50.00"), ("1", "", "50.00"))


@pytest.mark.parametrize(
    "names",
    [["model.layers.0.q", "lm_head"], ["encoder.0.q", "decoder.0.q"], [f"h.0.experts.{i}.w" for i in range(9)]],
)
def test_the_table_lists_layers_that_make_no_grid(names: list[str]) -> None:
    table = error_table([layer(name) for name in names])
    assert table.columns == ("layer", "error")
    assert table.rows == tuple((name, "50.00") for name in names)


@pytest.mark.parametrize(
    ("rank", "flag"), [(16, 16), (32, 32), (48, 64), (96, 128), (272, 320), (512, 512), (528, None)]
)
def test_the_flag_is_the_smallest_that_vllm_takes(tmp_path: Path, rank: int, flag: int | None) -> None:
    import torch

    assert vllm_max_lora_rank(rank) == flag
    assert portable_rank(rank) == rank
    report = ExportReport(tmp_path / "my out", "org/model", rank, None, torch.float32, 1, (), 0.0)
    lines = dict(FORMATS["peft"].server_lines(report))
    if flag is None:
        assert "takes rank 528" in lines["vLLM"]
        assert "--rank 512" in lines["vLLM"]
    else:
        assert shlex.split(lines["vLLM"])[3:] == [
            "--enable-lora",
            "--max-lora-rank",
            str(flag),
            "--lora-modules",
            f"adapter={tmp_path / 'my out'}",
        ]
    assert shlex.split(lines["llama.cpp"])[2:] == ["--base-model-id", "org/model", str(tmp_path / "my out")]


@pytest.mark.parametrize(("rank", "expected"), [(1, 16), (16, 16), (17, 32), (96, 96)])
def test_ranks_are_padded_to_a_multiple_of_16(rank: int, expected: int) -> None:
    assert portable_rank(rank) == expected


def test_the_formats_of_the_console_script_are_the_table_s(run: Run) -> None:
    """It lists them without importing the package."""
    assert {name: form.name for name, form in FORMATS.items()} == {name: name for name in adapters._FORMATS}
    _, out, _ = run("export", "--help")
    shown = " ".join(out.replace("│", " ").split())
    for name, text in adapters._FORMATS.items():
        assert f"{name}: {text[0].lower()}{text[1:]}" in shown


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_is_written_and_says_who_loads_it(run: Run, adapter: Path, tmp_path: Path, name: str) -> None:
    code, out, _ = run("export", adapter, tmp_path / "out", "--format", name)
    assert code == 0
    assert (tmp_path / "out" / FORMATS[name].weights_file).is_file()
    assert FORMATS[name].title in out
    assert f"load it with {FORMATS[name].loader}" in out


def test_base_is_refused_by_the_library_too(adapter: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="base is not read for the format 'peft'"):
        export_as(FORMATS["peft"], adapter, tmp_path / "out", base="base")


# targets -----------------------------------------------------------------------------------------------------------


def test_targets_groups_by_ending_with_shape_and_count(run: Run, base: Path) -> None:
    code, out, _ = run("targets", base)
    assert code == 0
    rows = [re.split(r"\s{2,}", line.strip()) for line in out.splitlines() if "proj" in line or "lm_head" in line]
    assert ["q_proj", "2", "48", "48", "model.layers.*.self_attn.q_proj"] in rows
    assert ["k_proj", "2", "48", "24", "model.layers.*.self_attn.k_proj"] in rows
    assert ["down_proj", "2", "80", "48", "model.layers.*.mlp.down_proj"] in rows
    assert ["lm_head", "1", "48", "67", "lm_head (output layer)"] in rows
    assert "'all-linear' adapts 14 of these layers" in " ".join(out.split())


def test_all_targets_are_what_all_linear_adapts_and_the_output_layer(run: Run, base: Path, adapter: Path) -> None:
    _, out, _ = run("targets", base, "--all")
    tensors = export_lora(adapter, adapter.with_name("out")).layers
    assert set(out.split()) == {layer.name for layer in tensors} | {"lm_head"}


def test_targets_of_conv1d(make_gpt2: Make, tmp_path: Path) -> None:
    make_gpt2().save_pretrained(tmp_path / "gpt2")
    groups = {
        group.where: (group.ending, group.d_in, group.d_out) for group in list_targets(str(tmp_path / "gpt2")).groups
    }
    assert groups["transformer.h.*.attn.c_proj"] == ("c_proj", 48, 48)
    assert groups["transformer.h.*.mlp.c_proj"] == ("c_proj", 192, 48)
    assert groups["lm_head"] == ("lm_head", 48, 67)


def test_targets_loads_no_weights(base: Path, run: Run) -> None:
    (base / "model.safetensors").unlink()
    assert run("targets", base)[0] == 0


@pytest.mark.parametrize(
    ("place", "match"),
    [
        ("bass", r"no model folder .*nearest: 'base'"),
        ("adapter", "it holds an adapter; name its base model"),
        ("empty", r"holds no model: it has no config\.json"),
        ("broken", "cannot build the model"),
    ],
)
def test_targets_of_what_is_no_model(
    run: Run, base: Path, adapter: Path, tmp_path: Path, place: str, match: str
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_text('{"model_type": "nosuchmodel"}')
    code, _, err = run("targets", tmp_path / place)
    assert code == 2
    assert re.search(match, err)


def test_a_hub_id_that_cannot_be_reached_is_bad_input(run: Run) -> None:
    code, _, err = run("targets", "nobody/no-such-model")
    assert code == 2
    assert "cannot build the model 'nobody/no-such-model'" in err


def test_targets_lists_what_no_adapter_reaches(run: Run, tmp_path: Path) -> None:
    shape = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    mixture = PhimoeForCausalLM(PhimoeConfig(vocab_size=32, num_local_experts=4, num_key_value_heads=1, **shape))
    mixture.save_pretrained(tmp_path / "mixture")
    code, out, _ = run("targets", tmp_path / "mixture")
    assert code == 0
    experts = sum(p.numel() for name, p in mixture.named_parameters() if "experts" in name)
    share = experts / sum(p.numel() for p in mixture.parameters())
    assert f"No adapter reaches {share:.1%} of the weights" in out
    assert "  model.layers.*.mlp.experts.down_proj (2 of 4 × 16 × 24): " in out
    assert "It leaves out what cannot be adapted:" in out
    assert "  model.layers.*.mlp.router (2): a transformers.models.phimoe" in out
    _, names, _ = run("targets", tmp_path / "mixture", "--all")
    assert not any("router" in name or "experts" in name for name in names.split())
