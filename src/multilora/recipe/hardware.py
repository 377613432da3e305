"""The machine that a run is planned for."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from multilora.errors import InputError
from multilora.recipe.values import Integer, Number, Section


class HardwareSection(Section):
    """The machine that `multilora plan` reckons with. It does not change the trained weights."""

    device: Literal["gpu", "cpu"] = Field(
        "gpu", description="What trains. On a CPU the loss, without its GPU kernel, takes more memory."
    )
    devices: Integer = Field(1, ge=1, description="How many devices train together, each on batch_size rows.")
    memory_gib: Number | None = Field(
        None, gt=0, description="Memory of each device in GiB. None: `multilora plan` does not say whether a run fits."
    )
    sharding: Literal["none", "full"] = Field(
        "none",
        description="none: every device holds the whole model. full: weights, gradients and optimizer state are "
        "divided among the devices, as FSDP and ZeRO-3 do; `multilora plan` reckons with it, `multilora train` cannot "
        "do it yet.",
    )

    @model_validator(mode="after")
    def _shards_go_to_several(self) -> HardwareSection:
        if self.sharding == "full" and self.devices == 1:
            raise InputError("sharding: full has no effect with one device; set devices, or leave it out")
        return self


def refuse_sharding(hardware: HardwareSection) -> None:
    """Training holds the whole model on every device.

    Raises:
        InputError: the recipe wants it sharded.
    """
    if hardware.sharding != "none":
        raise InputError(
            f"hardware.sharding: {hardware.sharding} can be planned, not trained: `multilora train` holds the whole "
            "model on every device. Set hardware.sharding to none (--set hardware.sharding=none), on devices with "
            "memory enough; `multilora plan` says how much"
        )
