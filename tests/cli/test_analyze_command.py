"""`multilora analyze`: what it writes, what the terminal shows, exit codes."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from adapter_files import change_config, change_tensors, lora_config
from console import Run, multilora
from multilora import MultiLoraConfig
from report.bench import bench_content
from spectral.run_folders import make_comparison, make_run, save_adapter_of, save_full
from tiny_run import make_recipe


@pytest.fixture
def run() -> Run:
    """The console script in this process: exit code, stdout, stderr."""
    return partial(multilora, "analyze")


@pytest.fixture(autouse=True)
def _without_figures(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """They take seconds: one test has them drawn."""
    if "with_figures" not in request.fixturenames:
        monkeypatch.setattr("multilora.report.static.write_figures", lambda folder, data, bench: [])


@pytest.fixture
def with_figures() -> None: ...


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """base/, full/, lora/, multi/, comparison/."""
    torch.manual_seed(0)
    root = tmp_path_factory.mktemp("analyze")
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    LlamaForCausalLM(LlamaConfig(vocab_size=67, **shape)).save_pretrained(root / "base")
    save_full(root / "base", root / "full")
    save_adapter_of(root / "base", root / "lora", lora_config())
    save_adapter_of(root / "base", root / "multi", MultiLoraConfig(r=2, num_loras=2, init_weights=False))
    make_comparison(root / "comparison", root / "base", root)
    return root


def copied(root: Path, name: str, folder: Path) -> Path:
    folder.mkdir()
    for file in (root / name).iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


def test_a_mix_of_everything(root: Path, run: Run, tmp_path: Path) -> None:
    recipe = make_recipe(tmp_path)
    alone = make_run(tmp_path / "alone", "multilora", root / "base", recipe)
    targets = [root / "lora", root / "multi", root / "full", alone]
    code, out, err = run(*targets, "--base", root / "base", "--out", tmp_path / "out")
    assert (code, err.count("error")) == (0, 0)
    data = json.loads((tmp_path / "out" / "analysis.json").read_text())
    assert list(data["runs"]) == ["lora", "multi", "full", "alone"]
    assert {name: facts["reference"] for name, facts in data["runs"].items()} == {
        "lora": "full",
        "multi": "full",
        "full": None,
        "alone": "full",
    }
    assert data["runs"]["alone"]["recipe"]["method"]["num_loras"] == 2
    assert (data["runs"]["multi"]["num_loras"], data["runs"]["multi"]["total_rank"]) == (2, 4)
    assert len(data["matrices"]) == 4 * 14
    for name in data["runs"]:
        assert name in out
    for word in ("q_proj", "down_proj", "all", "effective rank", "φ(1,1) left", "all runs"):
        assert word in out
    assert out.splitlines()[-2:] == [f"analysis {tmp_path / 'out'}", f"page {tmp_path / 'out' / 'report.html'}"]
    assert '<section id="spectra"' in (tmp_path / "out" / "report.html").read_text()


@pytest.mark.usefixtures("with_figures")
def test_the_table_has_one_row_per_matrix_and_measure(root: Path, run: Run, tmp_path: Path) -> None:
    code, _, _ = run(root / "comparison", "--out", tmp_path)
    assert code == 0
    data = json.loads((tmp_path / "analysis.json").read_text())
    rows = pq.read_table(tmp_path / "analysis.parquet").to_pylist()
    assert len(rows) == sum(len(matrix["measures"]) for matrix in data["matrices"])
    assert {row["method"] for row in rows} == {"full", "lora@4", "multilora"}
    assert {row["seed"] for row in rows} == {0, 1}
    keys = {(row["run"], row["layer"], row["measure"]) for row in rows}
    assert len(keys) == len(rows)
    by_key = {(matrix["run"], matrix["layer"]): matrix for matrix in data["matrices"]}
    for row in rows[::97]:
        matrix = by_key[row["run"], row["layer"]]
        assert row["value"] == matrix["measures"][row["measure"]]
        assert (row["projection"], row["block"]) == (matrix["projection"], matrix["block"])
    for name, facts in data["runs"].items():
        values = [row["value"] for row in rows if (row["run"], row["measure"]) == (name, "stable_rank")]
        assert facts["total"]["stable_rank"]["mean"] == pytest.approx(sum(values) / len(values))
        assert facts["total"]["stable_rank"]["count"] == len(values) == 14
    written = {"report.html", "analysis.json", "analysis.parquet", "figures", "cache"}
    assert {path.name for path in tmp_path.iterdir()} == written


def test_again_is_the_same_bytes(root: Path, run: Run, tmp_path: Path) -> None:
    arguments = (root / "lora", root / "full", "--base", root / "base", "--out", tmp_path)
    run(*arguments)
    before = (tmp_path / "analysis.json").read_bytes()
    assert run(*arguments)[0] == 0
    assert (tmp_path / "analysis.json").read_bytes() == before


def test_an_adapter_whose_base_is_gone_is_analysed_without(root: Path, run: Run, tmp_path: Path) -> None:
    lora = copied(root, "lora", tmp_path / "lora")
    change_config(lora, base_model_name_or_path=str(tmp_path / "gone"))
    code, out, _ = run(lora, "--out", tmp_path / "out")
    assert code == 0
    assert "mechanism and merge numerics are left out; name the base model (--base)" in out
    code, out, _ = run(root / "lora", "--no-mechanism", "--out", tmp_path / "other")
    assert code == 0
    assert "amplification" not in out


def test_weights_that_are_not_finite_are_named_and_exit_with_1(root: Path, run: Run, tmp_path: Path) -> None:
    multi = copied(root, "multi", tmp_path / "multi")
    layer = "model.layers.0.mlp.up_proj"
    bad = f"base_model.model.{layer}.multilora_B.weight"
    change_tensors(multi, lambda tensors: tensors[bad].fill_(float("nan")))
    code, out, _ = run(multi, root / "lora", "--out", tmp_path / "out")
    assert code == 1
    assert f"not analysed: multi, {layer}: " in out
    data = json.loads((tmp_path / "out" / "analysis.json").read_text())
    assert [fault["layer"] for fault in data["faults"]] == [layer]
    assert len(data["matrices"]) == 27
    change_tensors(multi, lambda tensors: [tensor.fill_(float("nan")) for tensor in tensors.values()])
    code, _, err = run(multi, "--out", tmp_path / "none")
    assert code == 2
    assert "no matrix of any run can be analysed" in err
    assert not (tmp_path / "none" / "analysis.json").exists()


def other_base(root: Path, tmp_path: Path) -> list[str | Path]:
    shape = {"hidden_size": 40, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    LlamaForCausalLM(LlamaConfig(vocab_size=67, **shape)).save_pretrained(tmp_path / "other")
    return [root / "lora", "--base", tmp_path / "other"]


def shallow_base(root: Path, tmp_path: Path) -> list[str | Path]:
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4}
    LlamaForCausalLM(LlamaConfig(vocab_size=67, **shape)).save_pretrained(tmp_path / "other")
    return [root / "full", "--base", tmp_path / "other"]


def model_without_base(root: Path, tmp_path: Path) -> list[str | Path]:
    return [root / "full"]


def truncated_adapter(root: Path, tmp_path: Path) -> list[str | Path]:
    lora = copied(root, "lora", tmp_path / "lora")
    file = lora / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-7])
    return [lora]


def header_of_a_gigabyte(root: Path, tmp_path: Path) -> list[str | Path]:
    lora = copied(root, "lora", tmp_path / "lora")
    file = lora / "adapter_model.safetensors"
    file.write_bytes((1 << 30).to_bytes(8, "little") + file.read_bytes()[8:])
    return [lora]


def occupied(root: Path, tmp_path: Path) -> list[str | Path]:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("mine")
    return [root / "lora"]


def unknown_reference(root: Path, tmp_path: Path) -> list[str | Path]:
    return [root / "lora", "--reference", "lroa"]


def intruders_without_base(root: Path, tmp_path: Path) -> list[str | Path]:
    return [root / "lora", "--intruders", "--no-mechanism"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (other_base, "do not belong together"),
        (shallow_base, "do not belong together"),
        (model_without_base, "name that (--base)"),
        (truncated_adapter, "not a complete safetensors file"),
        (header_of_a_gigabyte, "not a complete safetensors file"),
        (occupied, "is not empty and holds no analysis"),
        (unknown_reference, "nearest: 'lora'"),
        (intruders_without_base, "drop one"),
    ],
)
def test_bad_input(
    make: Callable[[Path, Path], list[str | Path]], message: str, root: Path, run: Run, tmp_path: Path
) -> None:
    code, _, err = run(*make(root, tmp_path), "--out", tmp_path / "out")
    assert (code, err.count("error:")) == (2, 1)
    assert message in err
    assert not (tmp_path / "out" / "analysis.json").exists()
    assert not (tmp_path / "out" / "analysis.parquet").exists()


def test_errors_of_arguments_name_flags(root: Path, run: Run, tmp_path: Path) -> None:
    _, _, err = run(*occupied(root, tmp_path), "--out", tmp_path / "out")
    assert "error: --out: " in err
    _, _, err = run(*intruders_without_base(root, tmp_path), "--out", tmp_path / "new")
    assert "error: --intruders compares" in err
    _, _, err = run(root / "lora", "--bench", tmp_path / "none", "--out", tmp_path / "new")
    assert "error: --bench: " in err


def test_a_bench_goes_into_the_page(root: Path, run: Run, tmp_path: Path) -> None:
    (tmp_path / "bench.json").write_text(json.dumps(bench_content()))
    code, _, _ = run(root / "lora", "--bench", tmp_path / "bench.json", "--out", tmp_path / "out")
    assert code == 0
    page = (tmp_path / "out" / "report.html").read_text()
    assert 'id="bench-growth"' in page
    assert "a bench of toy Llama: multilora@3x8 against lora@24" in page


def test_a_file_that_is_no_bench_stops_before_anything_is_written(root: Path, run: Run, tmp_path: Path) -> None:
    code, _, err = run(root / "lora", "--bench", root / "lora" / "adapter_config.json", "--out", tmp_path / "out")
    assert (code, err.count("error:")) == (2, 1)
    assert "adapter_config.json': format is missing" in " ".join(err.split())
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(os.name == "nt", reason="such names are not allowed on Windows")
def test_names_with_markup_are_printed_as_they_are(root: Path, run: Run, tmp_path: Path) -> None:
    lora = copied(root, "lora", tmp_path / "[red]<b>x\x1b[31m")
    code, out, _ = run(lora, "--out", tmp_path / "out")
    assert code == 0
    assert "[red]<b>x�[31m" in out
    assert "\x1b[31m" not in out
    page = (tmp_path / "out" / "report.html").read_text()
    assert "[red]&lt;b&gt;x�[31m" in page
    assert "<b>" not in page
