"""Bad input: one clear error, the inputs as they were, and nothing that looks like a model."""

from __future__ import annotations

import errno
import json
import os
import resource
import shutil
import subprocess
from collections.abc import Callable, Generator
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from adapter_files import change_config, change_tensors, lora_config
from merging.merging_cases import (
    assert_no_model,
    change_json,
    contents,
    multilora,
    save_adapter_of,
    save_llama,
    tensors,
)
from multilora.errors import InputError
from multilora.merging import files as files_module
from multilora.merging import merge as merge_module
from multilora.merging.merge import merge_adapters
from multilora.merging.options import MergeOptions
from multilora.storage.folders import aside_of

Q = "model.layers.0.self_attn.q_proj"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bad")
    base = save_llama(folder / "base")
    save_adapter_of(base, folder / "adapter", multilora())
    save_adapter_of(base, folder / "lora", lora_config())
    return folder


@pytest.fixture
def place(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made, tmp_path / "place")
    for name in ("adapter", "lora"):
        change_config(tmp_path / "place" / name, base_model_name_or_path="somebody/base")
    return tmp_path / "place"


def refused(
    place: Path,
    match: str,
    *,
    adapters: tuple[str, ...] = ("adapter",),
    out: str = "out",
    base: str = "base",
    **options: Any,
) -> None:
    """The merge ends with this one error, and everything is as it was."""
    before = contents(place)
    with pytest.raises(InputError, match=match) as caught:
        merge_adapters(place / base, [place / name for name in adapters], place / out, MergeOptions(**options))
    assert len(str(caught.value).splitlines()) <= 10
    after = {name: digest for name, digest in contents(place).items() if not name.startswith(".out.incomplete/")}
    assert after == before
    if out == "out":
        assert_no_model(place / "out")


# The base model ----------------------------------------------------------------------------------------------------


def shards(place: Path) -> list[Path]:
    return sorted((place / "base").glob("*.safetensors"))


def missing(place: Path) -> None:
    shards(place)[1].unlink()


def cut_off(place: Path) -> None:
    shards(place)[1].write_bytes(shards(place)[1].read_bytes()[:-100])


def garbage(place: Path) -> None:
    shards(place)[1].write_bytes(b"PK\x03\x04" * 50)


def no_index(place: Path) -> None:
    (place / "base" / "model.safetensors.index.json").unlink()


def index_of_absent_tensors(place: Path) -> None:
    index = place / "base" / "model.safetensors.index.json"
    data = json.loads(index.read_text())
    data["weight_map"]["model.layers.9.mlp.up_proj.weight"] = shards(place)[0].name
    index.write_text(json.dumps(data))


def a_tensor_that_the_index_forgets(place: Path) -> None:
    """transformers reads whole shards, so it would find the tensor in the base model and not in the merged one."""
    index = place / "base" / "model.safetensors.index.json"
    data = json.loads(index.read_text())
    del data["weight_map"][f"{Q}.weight"]
    index.write_text(json.dumps(data))


def index_outside(place: Path) -> None:
    index = place / "base" / "model.safetensors.index.json"
    data = json.loads(index.read_text())
    data["weight_map"][f"{Q}.weight"] = "../adapter/adapter_model.safetensors"
    index.write_text(json.dumps(data))


def quantised(place: Path) -> None:
    change_json(place / "base" / "config.json", quantization_config={"quant_method": "bitsandbytes"})


def no_config(place: Path) -> None:
    (place / "base" / "config.json").unlink()


def not_finite(place: Path) -> None:
    file = next(file for file in shards(place) if f"{Q}.weight" in load_file(file))
    stored = load_file(file)
    stored[f"{Q}.weight"][3, 5] = float("nan")
    save_file(stored, file, {"format": "pt"})


@pytest.mark.parametrize(
    ("spoil", "match"),
    [
        (missing, r"lacks 1 of its 3 shards: model-00002"),
        (cut_off, r"model-00002-of-00003\.safetensors: not a complete safetensors file"),
        (garbage, r"not a complete safetensors file"),
        (no_index, r"neither model.safetensors nor model.safetensors.index.json"),
        (index_of_absent_tensors, r"lacks 'model\.layers\.9\.mlp\.up_proj\.weight', which .* says is in it"),
        (
            a_tensor_that_the_index_forgets,
            rf"holds '{Q}\.weight', which the model's index does not list",
        ),
        (index_outside, r"'\.\./adapter/adapter_model\.safetensors' is not the name"),
        (quantised, r"is quantised .* name the model that it was quantised from"),
        (no_config, r"cannot read '.*config.json'"),
        (not_finite, rf"'{Q}.weight' has numbers that are not finite"),
    ],
)
def test_a_base_model_that_is_broken(place: Path, spoil: Callable[[Path], None], match: str) -> None:
    spoil(place)
    refused(place, match)


def test_a_file_that_shrinks_meanwhile(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    merge_shard = merge_module.merge_shard

    def shrink(shard: Any, *arguments: Any) -> Any:
        os.truncate(shards(place)[0], 1000)
        return merge_shard(shard, *arguments)

    monkeypatch.setattr(merge_module, "merge_shard", shrink)
    with pytest.raises(InputError, match="became shorter while it was read"):
        merge_adapters(place / "base", [place / "adapter"], place / "out")
    assert_no_model(place / "out")


def test_an_input_that_changes_meanwhile(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    merge_shard = merge_module.merge_shard

    def touch(shard: Any, *arguments: Any) -> Any:
        os.utime(shards(place)[-1], (1, 1))
        return merge_shard(shard, *arguments)

    monkeypatch.setattr(merge_module, "merge_shard", touch)
    with pytest.raises(InputError, match="changed while it was being merged"):
        merge_adapters(place / "base", [place / "adapter"], place / "out")
    assert_no_model(place / "out")


# Adapters ----------------------------------------------------------------------------------------------------------


def other_shape(place: Path) -> None:
    other = save_llama(place / "other", intermediate_size=64)
    shutil.rmtree(place / "adapter")
    save_adapter_of(other, place / "adapter", multilora())


def other_names(place: Path) -> None:
    change_tensors(place / "adapter", lambda t: [t.update({k.replace("q_proj", "query"): t.pop(k)}) for k in list(t)])


def nan_in_it(place: Path) -> None:
    change_tensors(place / "adapter", lambda t: next(iter(t.values())).fill_(float("nan")))


def single_tokens(place: Path) -> None:
    config = multilora(trainable_token_indices={"embed_tokens": [1, 2]})
    shutil.rmtree(place / "adapter")
    get_peft_model(AutoModelForCausalLM.from_pretrained(place / "base"), config).save_pretrained(place / "adapter")


def whole_tensor_of_another_model(place: Path) -> None:
    config = multilora(modules_to_save=["lm_head"])
    shutil.rmtree(place / "adapter")
    get_peft_model(AutoModelForCausalLM.from_pretrained(place / "base"), config).save_pretrained(place / "adapter")
    change_tensors(
        place / "adapter",
        lambda t: t.update({"base_model.model.score.weight": t.pop("base_model.model.lm_head.weight")}),
    )


@pytest.mark.parametrize(
    ("spoil", "match"),
    [
        (other_shape, r"do not belong together(.|\n)*mlp.\w+: .* x .*; in the base model"),
        (other_names, r"query: not in the base model; nearest(.|\n)*Name the base model"),
        (nan_in_it, r"numbers that are not finite .*training went wrong"),
        (single_tokens, r"trainable_token_indices.*merge_and_unload"),
        (whole_tensor_of_another_model, r"has the tensor 'score.weight', and the base model has none"),
    ],
)
def test_an_adapter_that_does_not_fit(place: Path, spoil: Callable[[Path], None], match: str) -> None:
    spoil(place)
    refused(place, match)


def test_adapters_of_different_base_models(place: Path) -> None:
    change_config(place / "lora", base_model_name_or_path="somebody/other-v2")
    both = ("adapter", "lora")
    refused(place, r"different base models \(base, other-v2.*--ignore-base-names", adapters=both)
    adapters = [place / name for name in both]
    merge_adapters(place / "base", adapters, place / "out", MergeOptions(ignore_base_names=True))


def test_a_base_model_of_another_name_is_told(place: Path) -> None:
    change_config(place / "adapter", base_model_name_or_path="/elsewhere/other")
    report = merge_adapters(place / "base", [place / "adapter"], place / "out")
    assert any("trained from 'other', and is merged into 'base'" in note for note in report.notes)


def test_base_models_that_only_end_alike_are_told(place: Path) -> None:
    change_config(place / "lora", base_model_name_or_path="/elsewhere/base")
    report = merge_adapters(place / "base", [place / "adapter", place / "lora"], place / "out")
    assert any("name their base model differently" in note and "/elsewhere/base" in note for note in report.notes)


def test_merging_into_a_merged_model_is_told(place: Path) -> None:
    merge_adapters(place / "base", [place / "adapter"], place / "out")
    report = merge_adapters(place / "out", [place / "adapter"], place / "again")
    assert any("is a merged model itself" in note for note in report.notes)


def test_whole_tensors_are_neither_added_nor_weighted(place: Path) -> None:
    config = lora_config(modules_to_save=["lm_head"])
    for name in ("one", "two"):
        get_peft_model(AutoModelForCausalLM.from_pretrained(place / "base"), config).save_pretrained(place / name)
    refused(place, "both have a whole 'lm_head.weight'", adapters=("one", "two"))
    refused(place, "cannot be weighted with 0.5", adapters=("one",), weights=(0.5,))
    merge_adapters(place / "base", [place / "one", place / "lora"], place / "out", MergeOptions(weights=(1.0, 0.3)))


# Options and places ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"adapters": ()}, "no adapter is named"),
        ({"adapters": ("nowhere",)}, "no adapter folder"),
        ({"adapters": ("base",)}, "is not an adapter"),
        ({"weights": (1.0, 2.0)}, "weights has 2 numbers for 1 adapters"),
        ({"weights": (float("nan"),)}, "weights must be finite numbers; got nan"),
        ({"dtype": "float8"}, "dtype must be one of .*nearest: 'float"),
        ({"out": "base"}, "is an input of the merge"),
        ({"out": "adapter"}, "is an input of the merge"),
        ({"out": "base/out"}, "is inside of the input"),
        ({"out": "."}, "is around the input"),
        ({"out": "adapter", "overwrite": True}, "is an input of the merge"),
        ({"out": "lora"}, "is not empty"),
        ({"out": "lora", "overwrite": True}, "has files that overwriting would lose: .*adapter_config.json"),
        ({"out": "base/config.json"}, "is inside of the input"),
        ({"out": "lora/adapter_config.json"}, "is a file"),
    ],
)
def test_options_and_places(place: Path, options: dict[str, Any], match: str) -> None:
    refused(place, match, **options)


def test_a_link_to_an_input_is_the_input(place: Path) -> None:
    (place / "link").symlink_to(place / "base")
    refused(place, "is an input of the merge", out="link")


def test_only_a_merged_model_is_overwritten(place: Path) -> None:
    save_llama(place / "trained")
    refused(place, "would lose: config.json", out="trained", overwrite=True)
    out = place / "out"
    merge_adapters(place / "base", [place / "adapter"], out)
    with pytest.raises(InputError, match="is not empty"):
        merge_adapters(place / "base", [place / "lora"], out)
    (out / "notes.txt").write_text("mine")
    before = contents(out)
    with pytest.raises(InputError, match="would lose: notes"):
        merge_adapters(place / "base", [place / "lora"], out, MergeOptions(overwrite=True))
    assert contents(out) == before
    (out / "notes.txt").unlink()
    merge_adapters(place / "base", [place / "lora"], out, MergeOptions(overwrite=True))
    assert contents(out) != before
    assert not aside_of(out).exists()


def test_what_does_not_fit_into_the_dtype(place: Path) -> None:
    change_tensors(place / "lora", lambda t: [v.mul_(1e4) for v in t.values()])
    refused(
        place,
        r"does not fit into float16: .* Merge with dtype \(--dtype\) bfloat16",
        adapters=("lora",),
        dtype="float16",
    )
    report = merge_adapters(place / "base", [place / "lora"], place / "out", MergeOptions(dtype="bfloat16"))
    assert report.adapted


# Disks -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Generator[Path]:
    """A file system of its own, of 160 kB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=160k", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"needs a file system of its own, and mounting is not permitted here: {mounted.stderr.decode()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_too_small_a_disk_is_told_before_anything_is_written(place: Path, small_disk: Path) -> None:
    with pytest.raises(InputError, match=r"the disk is too small: the result needs .* GB more"):
        merge_adapters(place / "base", [place / "adapter"], small_disk / "out")
    assert not list(small_disk.iterdir())


@pytest.mark.parametrize("claimed", [True, False])
def test_a_disk_that_fills_up_in_the_middle(
    place: Path, small_disk: Path, monkeypatch: pytest.MonkeyPatch, claimed: bool
) -> None:
    """As where others write, too. With room again the same command goes on and ends as if nothing had been."""
    with monkeypatch.context() as patch:
        patch.setattr(merge_module, "_check_room", lambda *_: None)
        if not claimed:
            patch.delattr(os, "posix_fallocate")
        with pytest.raises(InputError, match=r"disk is full .*\. 2 of 3 files are complete and are kept"):
            merge_adapters(place / "base", [place / "adapter"], small_disk / "out")
        assert_no_model(small_disk / "out")
    subprocess.run(["mount", "-o", "remount,size=1m", str(small_disk)], check=True)
    report = merge_adapters(place / "base", [place / "adapter"], small_disk / "out")
    assert 0 < report.written < report.size
    merge_adapters(place / "base", [place / "adapter"], place / "whole")
    assert contents(small_disk / "out") == contents(place / "whole")


def test_a_disk_that_is_read_only(place: Path, small_disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(InputError, match=r"cannot create the output folder .*(Read-only|Permission denied)"):
        merge_adapters(place / "base", [place / "adapter"], small_disk / "out")


@pytest.mark.parametrize(
    ("number", "match"),
    [
        (errno.ENOSPC, "the disk is full"),
        (errno.EDQUOT, "quota used up"),
        (errno.EIO, "cannot write .*[Ii]nput/output"),
    ],
)
def test_writing_that_fails(place: Path, monkeypatch: pytest.MonkeyPatch, number: int, match: str) -> None:
    """Where no file system of its own can be had. In the middle of the second file."""
    written = 0

    def fail(handle: int, content: memoryview, offset: int) -> int:
        nonlocal written
        written += len(content)
        if written > 100_000:
            raise OSError(number, os.strerror(number))
        return pwrite(handle, content, offset)

    pwrite = os.pwrite
    monkeypatch.setattr(files_module.os, "pwrite", fail)
    refused(place, match)


def test_a_disk_that_tells_only_at_the_end(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(handle: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(files_module.os, "fsync", fail)
    refused(place, "cannot write .*Input/output error")


def _limited(place: Path) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
    with pytest.raises(InputError, match="larger than a file may be"):
        merge_adapters(place / "base", [place / "adapter"], place / "out")
    assert_no_model(place / "out")


def test_a_limit_on_the_size_of_files(place: Path) -> None:
    context = get_context("forkserver")
    context.set_forkserver_preload(["multilora.merging.merge"])
    process = context.Process(target=_limited, args=(place,))
    process.start()
    process.join(60)
    assert process.exitcode == 0


def test_the_result_is_as_usual_after_all_that(place: Path) -> None:
    merge_adapters(place / "base", [place / "adapter"], place / "out")
    assert all(torch.isfinite(tensor).all() for tensor in tensors(place / "out").values())
