"""The machine that a run is planned for, and how it is shared."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from multilora.errors import InputError
from multilora.fields import Integer, Number, Section


class HardwareSection(Section):
    """The machine that `multilora plan` estimates for. It does not change the trained weights.

    Of a run it decides one thing: whether the model is divided among the processes.
    """

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
        "divided among the devices (FSDP2); `multilora train` then wants one process for each, started by torchrun.",
    )

    @model_validator(mode="after")
    def _shards_go_to_several(self) -> HardwareSection:
        if self.sharding == "full" and self.devices == 1:
            raise InputError("sharding: full has no effect with one device; set devices, or leave it out")
        return self
