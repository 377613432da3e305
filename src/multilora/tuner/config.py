"""`MultiLoraConfig`: what a user of PEFT writes instead of `LoraConfig`."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from peft.config import PeftConfig
from peft.utils import PeftType

from multilora.errors import InputError, nearest
from multilora.tuner.factors import ScalingFunction
from multilora.tuner.field_help import documents_fields
from multilora.tuner.initialization import HELP, STARTS, InitWeights, scaling_defaults
from multilora.tuner.lora_arguments import takes_lora_arguments
from multilora.tuner.merging import ExactUnmerge
from multilora.tuner.registration import MULTILORA, add_peft_type

add_peft_type()

ALL_LINEAR = "all-linear"
Scaling = Literal["vector", "scalar", "none"]

_CHOICES: dict[str, tuple[Any, ...]] = {
    "scaling": ("vector", "scalar", "none"),
    "scaling_function": ("linear", "tanh", None),
    "init_weights": (True, False, *STARTS),
    "bias": ("none", "all", "multilora_only"),
    "exact_unmerge": (True, False, "cpu"),
}


@takes_lora_arguments
@documents_fields
@dataclass
class MultiLoraConfig(PeftConfig):
    """The configuration of MultiLoRA (Wang et al. 2023, arXiv 2311.11501): n LoRA modules in parallel per layer.

    Each targeted linear layer computes `y = W x + Σ_i f(c·s_i) ⊙ (lora_alpha / r) B_i A_i x`, i = 1 … num_loras.

    Arguments of `peft.LoraConfig` that are not listed here are accepted at LoRA's defaults, and ignored; at any other
    value they are refused with what they would be here.

    Raises:
        InputError (a ValueError): a field's value is out of range; the message names field, value and remedy.
    """

    r: int = field(
        default=32,
        metadata={"help": "Rank of each LoRA module; the adapter's total rank is num_loras * r. At least 1."},
    )
    num_loras: int = field(
        default=3,
        metadata={"help": "Number n of parallel LoRA modules per layer. At least 1."},
    )
    lora_alpha: float | None = field(
        default=None,
        metadata={"help": "The constant factor is lora_alpha / r. None: each module's own r, so the factor is 1."},
    )
    lora_dropout: float = field(
        default=0.0,
        metadata={"help": "Dropout on the adapter's input, one mask shared by the num_loras modules; in [0, 1)."},
    )
    scaling: Scaling = field(
        default="vector",
        metadata={
            "help": "The learned scale of each module: 'vector' (one number per output feature), 'scalar' (one "
            "number) or 'none' (no learned scale; for controls)."
        },
    )
    scaling_function: ScalingFunction | None = field(
        default=None,
        metadata={
            "help": "f in the effective scale f(c·s): 'linear' (the paper's, a factor that may grow without end) or "
            "'tanh' (within -1 and 1). None: what goes with init_weights: 'tanh' for the default, 'linear' for the "
            "paper's starts."
        },
    )
    scaling_constant: float | None = field(
        default=None,
        metadata={
            "help": "c in the effective scale f(c·s): how fast the learned scale s leaves zero, in units of the "
            "learning rate. None: what goes with init_weights: 2000 for the default, 1 for the paper's starts."
        },
    )
    init_weights: bool | InitWeights = field(
        default=True,
        metadata={"help": HELP},
    )
    target_modules: list[str] | set[str] | str | None = field(
        default="all-linear",
        metadata={
            "help": "The linear layers to adapt: a list of names or name endings, a regular expression, or "
            "'all-linear' (every linear layer but the output layer; what cannot be adapted is left out, with a "
            "warning). None means 'all-linear'."
        },
    )
    exclude_modules: list[str] | set[str] | str | None = field(
        default=None,
        metadata={"help": "Layers not to adapt: a list of names or name endings, or a regular expression."},
    )
    layers_to_transform: list[int] | int | None = field(
        default=None,
        metadata={
            "help": "Adapt only the blocks of these indexes; with target_modules as a list, or 'all-linear', which "
            "then becomes the list of their layers."
        },
    )
    layers_pattern: list[str] | str | None = field(
        default=None,
        metadata={"help": "Name of the list of blocks ('layers', 'h', …) for layers_to_transform."},
    )
    rank_pattern: dict[str, int] = field(
        default_factory=dict[str, int],
        metadata={"help": "Layer name or regular expression to r, where it differs from the field r."},
    )
    alpha_pattern: dict[str, float] = field(
        default_factory=dict[str, float],
        metadata={"help": "Layer name or regular expression to lora_alpha, where it differs from the field."},
    )
    modules_to_save: list[str] | None = field(
        default=None,
        metadata={"help": "Other modules to train in full and to save with the adapter, such as a classifier head."},
    )
    bias: Literal["none", "all", "multilora_only", "lora_only"] = field(
        default="none",
        metadata={
            "help": "Train biases too: 'all' of the model's, or those of the adapted layers ('multilora_only', or by "
            "LoRA's name 'lora_only'). The base model is then no longer what it was when the adapter is disabled."
        },
    )
    trainable_token_indices: list[int] | dict[str, list[int]] | None = field(
        default=None,
        metadata={"help": "Token ids whose embeddings are trained too: a list, or embedding layer name to list."},
    )

    exact_unmerge: ExactUnmerge = field(
        default=False,
        metadata={
            "help": "Keep the adapted layers' base weights while adapters are merged into them, so that unmerging "
            "gives them back to the bit: True on their device, 'cpu' in main memory, at the cost of one copy of them. "
            "False: ΔW is subtracted, and a half-precision base drifts a little at each merge. For trainers that merge "
            "and unmerge at every step (GRPO with vLLM)."
        },
    )

    def __post_init__(self) -> None:
        # Saved before these fields were there? PEFT writes its version into every file, and users leave it to PEFT.
        if self.peft_version is not None and self.scaling_function is None and self.scaling_constant is None:
            self.scaling_function, self.scaling_constant = "linear", 1.0
        super().__post_init__()
        self.peft_type = PeftType(MULTILORA)
        self.rank_pattern = self.rank_pattern or {}  # LoRA's may be None
        self.alpha_pattern = self.alpha_pattern or {}
        if self.bias == "lora_only":
            self.bias = "multilora_only"
        for name in ("r", "num_loras"):
            _check_positive_integer(name, getattr(self, name))
        for pattern, r in self.rank_pattern.items():
            _check_positive_integer(f"rank_pattern[{pattern!r}]", r)
        alphas = {"lora_alpha": self.lora_alpha} | {f"alpha_pattern[{k!r}]": v for k, v in self.alpha_pattern.items()}
        for name, alpha in alphas.items():
            _check_alpha(name, alpha)
        if not 0.0 <= self.lora_dropout < 1.0:
            raise InputError(f"lora_dropout must be in [0, 1); got {self.lora_dropout!r}")
        for name, choices in _CHOICES.items():
            _check_choice(name, getattr(self, name), choices)
        # Both fields get their values here, so that they are saved.
        self.scaling_function, self.scaling_constant = scaling_defaults(
            self.init_weights, self.scaling, self.scaling_function, self.scaling_constant
        )
        _check_positive("scaling_constant", self.scaling_constant)
        self._check_init_against_scaling()
        self._check_targets()

    def to_dict(self) -> dict[str, Any]:
        # Sorted, so that the same adapter gives the same adapter_config.json.
        return {key: sorted(value) if isinstance(value, set) else value for key, value in super().to_dict().items()}

    def save_pretrained(self, save_directory: str, **kwargs: Any) -> None:
        """Write adapter_config.json, and beside it the model card: nothing else of ours is called in PEFT's saving.

        Args:
            save_directory: the adapter's folder; created if it does not exist.
            kwargs: as PEFT has them.
        """
        from multilora.tuner.card import write_adapter_card

        # PEFT gives this argument, and has written the tensors before; transformers, without it, writes them later.
        has_weights = "auto_mapping_dict" in kwargs
        super().save_pretrained(save_directory, **kwargs)
        write_adapter_card(self.to_dict(), Path(save_directory), has_weights)

    def _check_init_against_scaling(self) -> None:
        if isinstance(self.init_weights, bool):
            return
        zero = STARTS[self.init_weights].zero
        if zero == "lora_B" and self.scaling != "none":
            raise InputError(
                f"init_weights={self.init_weights!r} starts at B = 0 and needs scaling='none'; got "
                f"scaling={self.scaling!r}, whose zero start would leave every gradient at zero. Set scaling='none', "
                "or another init_weights"
            )
        if zero == "scaling" and self.scaling == "none":
            warnings.warn(
                f"scaling='none' with init_weights={self.init_weights!r}: without a scale that starts at zero the "
                "adapted model differs from the base model from the first step. init_weights='lora' would not",
                stacklevel=4,
            )

    def _check_targets(self) -> None:
        if self.target_modules is None:
            self.target_modules = ALL_LINEAR
        if isinstance(self.target_modules, list):
            self.target_modules = set(self.target_modules)
        if isinstance(self.exclude_modules, list):
            self.exclude_modules = set(self.exclude_modules)
        all_linear = isinstance(self.target_modules, str) and self.target_modules.lower() == ALL_LINEAR
        if isinstance(self.target_modules, str) and not all_linear and self.layers_to_transform is not None:
            raise InputError(
                f"layers_to_transform={self.layers_to_transform!r} needs target_modules as a list, or 'all-linear'; "
                f"got the regular expression {self.target_modules!r}. List the names, or put the layers into it"
            )
        if self.layers_pattern and self.layers_to_transform is None:
            raise InputError(f"layers_pattern={self.layers_pattern!r} needs layers_to_transform as well")


def _check_positive_integer(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise InputError(f"{name} must be an integer of at least 1; got {value!r}")


def _check_positive(name: str, value: Any) -> None:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not (number and math.isfinite(value) and value > 0):
        raise InputError(f"{name} must be a positive number; got {value!r}")


def _check_alpha(name: str, alpha: Any) -> None:
    number = isinstance(alpha, (int, float)) and not isinstance(alpha, bool)
    if alpha is not None and not (number and math.isfinite(alpha) and alpha > 0):
        raise InputError(f"{name} must be a positive number, or None for each module's own r; got {alpha!r}")


def _check_choice(name: str, value: Any, choices: tuple[Any, ...]) -> None:
    # `in` alone would let 1 pass for True.
    if not any(value is choice or (isinstance(value, str) and value == choice) for choice in choices):
        words = [choice for choice in choices if isinstance(choice, str)]
        near = nearest(value, words) if isinstance(value, str) else ""
        raise InputError(f"{name} must be one of {', '.join(map(repr, choices))}; got {value!r}{near}")
