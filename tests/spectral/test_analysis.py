"""The records of an analysis against NumPy on the dense weights; the cache; faults by layer."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from adapter_files import Spy, change_tensors, load, lora_config
from multilora import MultiLoraConfig
from multilora.base.weights import ModelWeights
from multilora.spectral import analysis as analysis_module
from multilora.spectral import deltas
from multilora.spectral.analysis import Analysis, analyse, open_runs
from multilora.spectral.cache import Cache
from multilora.spectral.deltas import DecompositionOptions
from multilora.spectral.matrix import MatrixOptions
from multilora.spectral.sources import find_sources, references
from multilora.terminal import Silent
from spectral.run_folders import save_adapter_of, save_full

LAYER = "model.layers.1.mlp.down_proj"


class Seen(Silent):
    def __init__(self) -> None:
        self.total = 0
        self.seen: list[tuple[int, str | None]] = []

    def start(self, total: int, done: int) -> None:
        self.total = total

    def step(self, done: int, metrics: object = None, name: str | None = None) -> None:
        self.seen.append((done, name))


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """base/, full/, lora/ and multi/ of a Llama with two blocks."""
    torch.manual_seed(0)
    root = tmp_path_factory.mktemp("analysis")
    shape = {"hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 2, "num_attention_heads": 4}
    LlamaForCausalLM(LlamaConfig(vocab_size=67, **shape)).save_pretrained(root / "base")
    save_full(root / "base", root / "full")
    save_adapter_of(root / "base", root / "lora", lora_config(r=6))
    save_adapter_of(root / "base", root / "multi", MultiLoraConfig(r=4, num_loras=3, init_weights=False))
    return root


def analysed(
    root: Path, names: list[str], cache: Path, base: bool = True, progress: Silent | None = None, **options: Any
) -> Analysis:
    weights = ModelWeights(root / "base") if base else None
    sources = find_sources([str(root / name) for name in names])
    runs = open_runs(sources, weights, references(sources, None))
    return analyse(runs, weights, MatrixOptions(**options), Cache(cache), progress or Silent())


def record(found: Analysis, run: str, layer: str = LAYER) -> dict[str, Any]:
    return json.loads(json.dumps(next(m.content() for m in found.matrices if (m.run, m.layer) == (run, layer))))


def weight(folder: Path, layer: str = LAYER) -> np.ndarray:
    return load_file(folder / "model.safetensors")[f"{layer}.weight"].double().numpy()


def delta_of(root: Path, run: str, layer: str = LAYER) -> np.ndarray:
    """ΔW from the libraries: merged by PEFT, or as the difference of two models."""
    if run == "full":
        return weight(root / "full", layer) - weight(root / "base", layer)
    model = load(AutoModelForCausalLM.from_pretrained(root / "base"), root / run)
    return model.get_submodule(f"base_model.model.{layer}").get_delta_weight("default").detach().double().numpy()


def test_records_are_those_of_dense_numpy(folders: Path, tmp_path: Path) -> None:
    found = analysed(folders, ["full", "lora", "multi"], tmp_path, intruders=True)
    assert not found.faults
    assert len(found.matrices) == 3 * 14
    reference = np.linalg.svd(delta_of(folders, "full"))
    W = weight(folders / "base")
    for run, rank in (("full", 48), ("lora", 6), ("multi", 12)):
        delta, ours = delta_of(folders, run), record(found, run)
        U, S, Vh = np.linalg.svd(delta)
        assert (ours["d_out"], ours["d_in"], ours["block"], ours["projection"]) == (48, 80, 1, "down_proj")
        assert ours["spectrum"]["index"] == list(range(rank))
        np.testing.assert_allclose(ours["spectrum"]["sigma"], S[:rank], rtol=1e-5)
        assert (ours["spectrum"]["size"], ours["spectrum"]["rank"]) == (48, rank)
        assert sum(ours["histogram"]["counts"]) == rank
        assert ours["histogram"]["zeros"] == ours["measures"]["zeros"] == 48 - rank
        assert ours["measures"]["frobenius_norm"] == pytest.approx(np.linalg.norm(delta), rel=1e-5)
        # mechanism
        projected = np.linalg.norm(U[:, :4].T @ W @ Vh[:4].T)
        assert ours["measures"]["projection_delta_4"] == pytest.approx(projected, rel=1e-4)
        own = np.linalg.norm(np.linalg.svd(W, compute_uv=False)[:4])
        assert ours["measures"]["projection_base_4"] == pytest.approx(own, rel=1e-4)
        assert ours["measures"]["amplification_4"] == pytest.approx(np.linalg.norm(delta) / projected, rel=1e-4)
        assert ours["measures"]["relative_norm"] == pytest.approx(np.linalg.norm(delta) / np.linalg.norm(W), rel=1e-5)
        cosines = np.abs(np.linalg.svd(W)[0].T @ np.linalg.svd(W + delta)[0][:, :10]).max(0)
        assert ours["measures"]["intruders"] == (cosines < 0.6).sum()
        if run == "full":
            assert ours["similarity"] is ours["modules"] is ours["numerics"] is None
            continue
        # similarity
        grid = ours["similarity"]
        for i, row in zip(grid["ranks"], grid["right"], strict=True):
            for j, phi in zip(grid["reference_ranks"], row, strict=True):
                expected = np.linalg.norm(Vh[:i] @ reference[2][:j].T) ** 2 / min(i, j)
                assert phi == pytest.approx(expected, abs=1e-5)
        left = np.linalg.norm(U[:, :4].T @ reference[0][:, :4]) ** 2 / 4
        assert ours["measures"]["similarity_left_4"] == pytest.approx(left, abs=1e-5)
        # numerics
        stored = torch.from_numpy(W).bfloat16()
        exact = stored.double() + torch.from_numpy(delta)
        error = float((exact.bfloat16().double() - exact).norm() / np.linalg.norm(delta))
        assert ours["measures"]["merge_error_bfloat16"] == pytest.approx(error, rel=1e-3)
    assert record(found, "lora")["modules"] is None
    modules = record(found, "multi")["modules"]
    assert sum(modules["energy"]) == pytest.approx(1)
    assert len(modules["scaling"]) == len(modules["left"]) == len(modules["right"][0]) == 3
    json.dumps([m.content() for m in found.matrices], allow_nan=False)


def test_without_a_base_model(folders: Path, tmp_path: Path) -> None:
    found = analysed(folders, ["lora", "multi"], tmp_path, base=False)
    ours = record(found, "multi")
    assert ours["mechanism"] is ours["numerics"] is ours["similarity"] is None
    assert ours["modules"] is not None
    assert not any(name.startswith(("projection", "merge")) for name in ours["measures"])


def test_what_was_computed_is_not_computed_again(
    folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = analysed(folders, ["full", "multi"], tmp_path)

    def never(*_: object) -> None:
        raise AssertionError("computed again")

    monkeypatch.setattr(analysis_module, "analyse_matrix", never)
    again = analysed(folders, ["full", "multi"], tmp_path)
    assert again.matrices == first.matrices
    with pytest.raises(AssertionError):  # other options are other results
        analysed(folders, ["full", "multi"], tmp_path, intruders=True)
    monkeypatch.undo()
    monkeypatch.setattr(deltas.ModelDelta, "decompose", never)  # but the full matrices' decompositions stay
    analysed(folders, ["full", "lora"], tmp_path)


def test_an_interrupted_analysis_goes_on(folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = analysed(folders, ["multi"], tmp_path / "whole")
    original, calls = analysis_module.analyse_matrix, [0]

    def counted(*arguments: Any) -> dict[str, Any]:
        calls[0] += 1
        if calls[0] == 6:
            raise KeyboardInterrupt
        return original(*arguments)

    monkeypatch.setattr(analysis_module, "analyse_matrix", counted)
    with pytest.raises(KeyboardInterrupt):
        analysed(folders, ["multi"], tmp_path / "cut")
    progress = Seen()
    resumed = analysed(folders, ["multi"], tmp_path / "cut", progress=progress)
    assert resumed.matrices == whole.matrices
    assert calls[0] == 6 + 14 - 5
    assert progress.total == 14
    assert progress.seen == [(done, matrix.layer) for done, matrix in enumerate(whole.matrices, start=1)]


def test_a_cache_that_was_cut_off_is_computed_again(folders: Path, tmp_path: Path) -> None:
    first = analysed(folders, ["full"], tmp_path)
    files = list(tmp_path.iterdir())
    assert {file.suffix for file in files} == {".json", ".safetensors"}
    for file in files:
        file.write_bytes(file.read_bytes()[:40])
    assert analysed(folders, ["full"], tmp_path).matrices == first.matrices


def test_numbers_that_are_not_finite_are_named_and_the_rest_is_analysed(folders: Path, tmp_path: Path) -> None:
    for name in ("multi", "full"):
        (tmp_path / name).mkdir()
        for file in (folders / name).iterdir():
            (tmp_path / name / file.name).write_bytes(file.read_bytes())
    (tmp_path / "base").symlink_to(folders / "base")
    bad = f"base_model.model.{LAYER}.multilora_A.weight"
    change_tensors(tmp_path / "multi", lambda tensors: tensors[bad].fill_(math.inf))
    found = analysed(tmp_path, ["multi", "full"], tmp_path / "cache")
    assert [(fault.run, fault.layer) for fault in found.faults] == [("multi", LAYER)]
    assert "not finite" in found.faults[0].message
    assert len(found.matrices) == 2 * 14 - 1


def test_a_reference_that_is_not_finite_leaves_the_rest_of_the_record(folders: Path, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    (tmp_path / "multi").symlink_to(folders / "multi")
    (tmp_path / "base").symlink_to(folders / "base")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "config.json").write_bytes((folders / "full" / "config.json").read_bytes())
    tensors = load_file(folders / "full" / "model.safetensors")
    tensors[f"{LAYER}.weight"][0] = math.nan
    save_file(tensors, tmp_path / "full" / "model.safetensors")
    found = analysed(tmp_path, ["multi", "full"], tmp_path / "cache")
    assert [(fault.run, fault.layer) for fault in found.faults] == [("full", LAYER)]
    assert record(found, "multi")["similarity"] is None
    assert record(found, "multi", LAYER.replace("1", "0"))["similarity"] is not None


def test_a_zero_adapter_has_measures(folders: Path, tmp_path: Path) -> None:
    config = MultiLoraConfig(r=2, num_loras=2, init_weights=False)
    zero_adapter = save_adapter_of(folders / "base", tmp_path / "zero", config)
    change_tensors(zero_adapter, lambda t: [v.zero_() for k, v in t.items() if "scaling" in k])
    for name in ("base", "full"):
        (tmp_path / name).symlink_to(folders / name)
    found = analysed(tmp_path, ["zero", "full"], tmp_path / "cache", intruders=True)
    assert not found.faults
    ours = record(found, "zero")
    assert ours["measures"]["zeros"] == 48
    zero = {name: value for name, value in ours["measures"].items() if name not in ("zeros",)}
    assert all(value == 0 for value in zero.values()), zero
    assert ours["measures"]["similarity_left_8"] == 0.0
    json.dumps(ours, allow_nan=False)


def test_a_rank_above_the_dimension(folders: Path, tmp_path: Path) -> None:
    (tmp_path / "base").symlink_to(folders / "base")
    save_adapter_of(folders / "base", tmp_path / "wide", MultiLoraConfig(r=40, num_loras=3, init_weights=False))
    ours = record(analysed(tmp_path, ["wide"], tmp_path / "cache"), "wide")
    assert (ours["measures"]["rank"], ours["measures"]["zeros"]) == (48, 0)


def test_gpt2_is_oriented_alike_in_adapters_and_in_full_fine_tuning(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=67, n_positions=64, n_embd=32, n_layer=1, n_head=4)
    GPT2LMHeadModel(config).save_pretrained(tmp_path / "base")
    save_adapter_of(tmp_path / "base", tmp_path / "lora", lora_config(target_modules=["c_attn", "c_proj"]))
    model = load(AutoModelForCausalLM.from_pretrained(tmp_path / "base"), tmp_path / "lora")
    model.merge_and_unload().save_pretrained(tmp_path / "full")  # the same ΔW as full weights
    found = analysed(tmp_path, ["lora", "full"], tmp_path / "cache")
    for layer in ("transformer.h.0.attn.c_attn", "transformer.h.0.attn.c_proj", "transformer.h.0.mlp.c_proj"):
        assert record(found, "lora", layer)["measures"]["similarity_left_4"] == pytest.approx(1, abs=1e-3)
        assert record(found, "lora", layer)["measures"]["similarity_right_4"] == pytest.approx(1, abs=1e-3)


def test_memory_holds_one_layer(folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spy = Spy()
    monkeypatch.setattr("multilora.adapter.file.safe_open", spy.open)
    analysed(folders, ["multi"], tmp_path, base=False)
    assert spy.most_alive <= 6  # A, B and the scale, twice at most


def test_few_vectors_of_large_full_matrices_agree_with_all(folders: Path, tmp_path: Path) -> None:
    exact = analysed(folders, ["full", "multi"], tmp_path / "exact")
    options = DecompositionOptions(top=4, dtype=torch.float64, exact_up_to=10)
    random = analysed(folders, ["full", "multi"], tmp_path / "random", decomposition=options)
    one, other = (record(found, "full") for found in (exact, random))
    assert one["vectors"]["method"] == "exact"
    assert other["measures"]["effective_rank"] == pytest.approx(one["measures"]["effective_rank"], rel=1e-6)
    for measure in ("similarity_left_4", "similarity_right_4"):
        assert record(random, "multi")["measures"][measure] == pytest.approx(
            record(exact, "multi")["measures"][measure], abs=1e-3
        )
