"""Telling runs, comparisons, adapters and models apart, and naming them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from transformers import PreTrainedModel

from adapter_files import change_config, lora_config
from multilora.errors import InputError
from multilora.spectral.sources import Source, base_of, find_sources, references
from spectral.run_folders import make_comparison, make_run, save_adapter_of
from tiny_run import make_recipe

Make = Callable[..., PreTrainedModel]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import LlamaConfig, LlamaForCausalLM

    shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4}
    folder = tmp_path_factory.mktemp("base")
    LlamaForCausalLM(LlamaConfig(vocab_size=67, **shape)).save_pretrained(folder)
    return folder


def test_a_comparison_is_its_cells_named_by_method_and_seed(base: Path, tmp_path: Path) -> None:
    folder = make_comparison(tmp_path / "comparison", base, tmp_path)
    found = find_sources([str(folder)])
    assert [s.name for s in found] == [f"{m} seed {n}" for m in ("full", "lora@4", "multilora") for n in (0, 1)]
    assert {(s.method, s.kind, s.seed, s.regime) for s in found} == {
        (method, kind, seed, "mixed")
        for method, kind in (("full", "full"), ("lora@4", "lora"), ("multilora", "multilora"))
        for seed in (0, 1)
    }
    assert base_of(found) == (str(base), None)
    assert references(found, None) == {
        "lora@4 seed 0": "full seed 0",
        "lora@4 seed 1": "full seed 1",
        "multilora seed 0": "full seed 0",
        "multilora seed 1": "full seed 1",
        "full seed 0": "full seed 1",
        "full seed 1": "full seed 0",
    }
    (folder / "results.json").unlink()  # an interrupted comparison: the folders' names
    assert {s.method for s in find_sources([str(folder)])} == {"full", "lora-4", "multilora"}


def test_runs_adapters_and_models(base: Path, tmp_path: Path) -> None:
    recipe = make_recipe(tmp_path)
    run = make_run(tmp_path / "one", "multilora", base, recipe)
    full = make_run(tmp_path / "two", "full", base, recipe)
    lora = save_adapter_of(base, tmp_path / "three", lora_config())
    found = find_sources([str(run), str(full / "model"), str(lora)])
    assert [(s.name, s.kind, s.method) for s in found] == [
        ("one", "multilora", "multilora@2x2"),
        ("model", "full", "full"),
        ("three", "lora", "lora@4"),
    ]
    assert (found[0].seed, found[0].regime, found[1].base) == (100, "mixed", None)
    assert references(found, None) == {"one": "model", "three": "model"}
    assert references(found, "one") == {"model": "one", "three": "one"}
    assert references(found, str(run)) == references(found, "one")
    with pytest.raises(InputError, match=r"'on' is not one of the runs; nearest: 'one'"):
        references(found, "on")


def test_equal_names_are_told_apart(base: Path, tmp_path: Path) -> None:
    recipe = make_recipe(tmp_path)
    runs = [make_run(tmp_path / place / "run", "lora@4", base, recipe) for place in ("a", "b")]
    found = find_sources(list(map(str, runs)))
    assert [s.name for s in found] == ["a/run", "b/run"]
    with pytest.raises(InputError, match="named twice"):
        find_sources([str(runs[0]), str(runs[0] / "adapter")])


def test_what_is_none_of_them(base: Path, tmp_path: Path) -> None:
    recipe = make_recipe(tmp_path)
    run = make_run(tmp_path / "unfinished", "lora@4", base, recipe)
    (run / "adapter").rename(run / "gone")
    with pytest.raises(InputError, match="is not finished: it has no adapter/"):
        find_sources([str(run)])
    with pytest.raises(InputError, match=r"no folder .*; nearest: 'unfinished'"):
        find_sources([str(tmp_path / "unfinishd")])
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no run"):
        find_sources([str(tmp_path / "empty")])
    (tmp_path / "empty" / "comparison.json").write_text("{}")
    with pytest.raises(InputError, match="no cell that is trained yet"):
        find_sources([str(tmp_path / "empty")])


def test_runs_of_different_base_models(base: Path, tmp_path: Path) -> None:
    one, other = (save_adapter_of(base, tmp_path / name, lora_config()) for name in ("one", "other"))
    change_config(other, base_model_name_or_path="somebody/else")
    with pytest.raises(InputError, match=r"'one' and 'other' .* different base models .*somebody/else"):
        base_of(find_sources([str(one), str(other)]))


def test_references_of_several_full_fine_tunings_outside_of_comparisons_have_to_be_named() -> None:
    lone = Source("a", Path("a"), Path("a"), "full", "full")
    assert references([lone, replace(lone, name="b"), replace(lone, name="c", kind="lora")], None) == {}
