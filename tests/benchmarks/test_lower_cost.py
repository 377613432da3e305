"""The candidates for a cheaper step, at a toy size."""

from __future__ import annotations

import torch

from benchmarks import lower_cost, prototypes

EAGER = ["loss in tiles", "order", "stacked gate up", "stacked q k v"]  # compiling takes a minute


def test_every_candidate_is_timed_beside_what_it_would_replace() -> None:
    record = lower_cost.main(["--quick", "--repeats", "2", "--minutes", "0.01", "--only", *EAGER])

    found = {(group["candidate"], group["setting"]) for group in record["groups"]}
    assert found == {(name, setting) for name in EAGER for setting in ("fp32", "bf16")} - {("order", "bf16")}
    for group in record["groups"]:
        assert {case["name"] for case in group["cases"]} == {lower_cost.NOW, lower_cost.CANDIDATE}
        assert group["speed"]["median"] > 0
    kept = {
        group["setting"]: {case["name"]: case["live_bytes"] for case in group["cases"]}
        for group in record["groups"]
        if group["candidate"] == "loss in tiles"
    }
    assert all(bytes_of[lower_cost.CANDIDATE] < bytes_of[lower_cost.NOW] for bytes_of in kept.values())


def test_the_prototypes_compute_what_the_package_computes() -> None:
    torch.manual_seed(0)
    layers = [prototypes.Layer.random(16, d_out, 3, 4, torch.float32) for d_out in (16, 24)]
    x = torch.randn(10, 16)
    for layer in layers:
        torch.testing.assert_close(prototypes.formed(x, layer), layer.separate(x))
    for ours, theirs in zip(prototypes.stacked(x, layers), layers, strict=True):
        torch.testing.assert_close(ours, theirs.separate(x))
