"""The benchmark of the whole `multilora train`, at a toy size."""

from __future__ import annotations

import pytest

from benchmarks import train_command


@pytest.mark.full
def test_both_methods_are_trained_with_the_same_recipe() -> None:
    record = train_command.main(["--quick", "--threads", "1"])

    (group,) = record["groups"]
    assert set(group["samples"]) == {train_command.LORA, train_command.MULTILORA}
    for runs in group["samples"].values():
        (run,) = runs
        assert run["tokens_per_second"] > 0
        assert run["final_loss"] > 0
    lora, ours = (group["samples"][name][0] for name in (train_command.LORA, train_command.MULTILORA))
    assert group["ratios"]["tokens_per_second"]["median"] == ours["tokens_per_second"] / lora["tokens_per_second"]
    # Equal rank: only the scales, n numbers for each output feature, come on top.
    assert ours["trainable_parameters"] > lora["trainable_parameters"]
