"""Reading a model's matrices: shards, orientation, and files that are incomplete, broken or hostile."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

from multilora.base.weights import ModelWeights, block_of, check_same_matrices, local_model
from multilora.errors import InputError

Make = Callable[..., PreTrainedModel]
Q = "model.layers.1.self_attn.q_proj"


@pytest.fixture
def model(make_llama: Make) -> PreTrainedModel:
    return make_llama()


@pytest.fixture
def whole(model: PreTrainedModel, tmp_path: Path) -> Path:
    model.save_pretrained(tmp_path / "whole")
    return tmp_path / "whole"


@pytest.fixture
def sharded(model: PreTrainedModel, tmp_path: Path) -> Path:
    model.save_pretrained(tmp_path / "sharded", max_shard_size="40KB")
    assert len(list((tmp_path / "sharded").glob("*.safetensors"))) > 2
    return tmp_path / "sharded"


def test_every_matrix_of_the_blocks_whole_or_sharded(model: PreTrainedModel, whole: Path, sharded: Path) -> None:
    linear = {n: m.weight for n, m in model.named_modules() if isinstance(m, torch.nn.Linear) and n != "lm_head"}
    for folder in (whole, sharded):
        weights = ModelWeights(folder)
        assert set(weights.block_matrices()) == set(linear)
        for name, expected in linear.items():
            assert weights.shapes[name] == tuple(expected.shape)
            assert torch.equal(weights.matrix(name), expected)


def test_conv1d_weights_are_turned(make_gpt2: Make, tmp_path: Path) -> None:
    model = make_gpt2()
    model.save_pretrained(tmp_path)
    weights = ModelWeights(tmp_path)
    name = "transformer.h.0.attn.c_attn"
    assert weights.shapes[name] == (3 * 48, 48)
    assert torch.equal(weights.matrix(name), model.get_submodule(name).weight.t())
    assert weights.find("h.0.attn.c_attn") == name


def test_names_and_blocks() -> None:
    assert [block_of(n) for n in ("model.layers.12.mlp.up_proj", "h.0.c", "lm_head", "layers2.a")] == [
        12,
        0,
        None,
        None,
    ]


def test_a_missing_shard_is_named(sharded: Path) -> None:
    gone = sorted(sharded.glob("*.safetensors"))[1]
    gone.unlink()
    with pytest.raises(InputError, match=f"lacks 1 of its .* shards: {gone.name}"):
        ModelWeights(sharded)


def test_an_index_that_points_elsewhere_is_refused(sharded: Path) -> None:
    index = sharded / "model.safetensors.index.json"
    data = json.loads(index.read_text())
    data["weight_map"][f"{Q}.weight"] = "../whole/model.safetensors"
    index.write_text(json.dumps(data))
    with pytest.raises(InputError, match=r"'\.\./whole/model\.safetensors' is not the name"):
        ModelWeights(sharded)


def test_an_index_that_announces_what_is_not_there(sharded: Path) -> None:
    index = sharded / "model.safetensors.index.json"
    data = json.loads(index.read_text())
    data["weight_map"]["model.layers.9.mlp.up_proj.weight"] = sorted(sharded.glob("*.safetensors"))[0].name
    index.write_text(json.dumps(data))
    with pytest.raises(InputError, match=r"lacks 'model\.layers\.9\.mlp\.up_proj\.weight'"):
        ModelWeights(sharded)


def truncated(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-100])


def huge_header(file: Path) -> None:
    file.write_bytes(struct.pack("<Q", 1 << 30) + file.read_bytes()[8:])


def header_beyond_the_end(file: Path) -> None:
    file.write_bytes(struct.pack("<Q", file.stat().st_size) + file.read_bytes()[8:])


def lengths_that_lie(file: Path) -> None:
    raw = file.read_bytes()
    size = struct.unpack("<Q", raw[:8])[0]
    header = json.loads(raw[8 : 8 + size])
    header[f"{Q}.weight"]["shape"] = [4800, 48]
    text = json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text + raw[8 + size :])


def garbage(file: Path) -> None:
    file.write_bytes(b"PK\x03\x04" * 50)


def empty(file: Path) -> None:
    file.write_bytes(b"")


@pytest.mark.parametrize("spoil", [truncated, huge_header, header_beyond_the_end, lengths_that_lie, garbage, empty])
def test_broken_and_hostile_files(whole: Path, spoil: Callable[[Path], None]) -> None:
    spoil(whole / "model.safetensors")
    with pytest.raises(InputError, match=r"model\.safetensors: not a complete safetensors file"):
        ModelWeights(whole)


def test_numbers_that_are_not_finite_are_named_by_layer(whole: Path) -> None:
    tensors = load_file(whole / "model.safetensors")
    tensors[f"{Q}.weight"][3, 4] = float("nan")
    save_file(tensors, whole / "model.safetensors")
    weights = ModelWeights(whole)
    with pytest.raises(InputError, match=Q):
        weights.matrix(Q)
    weights.matrix(Q.replace("1", "0"))


def test_pickles_and_missing_weights(whole: Path) -> None:
    (whole / "model.safetensors").rename(whole / "pytorch_model.bin")
    with pytest.raises(InputError, match="is a pickle"):
        ModelWeights(whole)
    (whole / "pytorch_model.bin").unlink()
    with pytest.raises(InputError, match="was not saved completely"):
        ModelWeights(whole)


def test_layers_that_do_not_belong_to_the_base(whole: Path) -> None:
    base = ModelWeights(whole)
    assert check_same_matrices("it", {Q: (48, 48)}, base) == {Q: Q}
    with pytest.raises(InputError, match=r"q_proj: 48 x 64; in the base model 48 x 48(.|\n)*Name the base model"):
        check_same_matrices("it", {Q: (48, 64)}, base)
    with pytest.raises(InputError, match=r"q_prj: not in the base model; nearest: .*q_proj(.|\n)*and 3 more layers"):
        check_same_matrices("it", {f"model.layers.{n}.self_attn.q_prj": (48, 48) for n in range(8)}, base)


def test_a_hub_id_that_was_not_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    assert local_model("nobody/nothing") is None
    with pytest.raises(InputError, match=r"no model folder 'nobody/nothing', and it cannot be fetched"):
        local_model("nobody/nothing", download=True)
    with pytest.raises(InputError, match="no model folder"):
        local_model(str(tmp_path / "gone"))
