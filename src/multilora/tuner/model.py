"""`MultiLoraModel`: injects the adapted layers into a model, for PEFT."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Generator
from contextlib import contextmanager
from itertools import chain
from typing import Any, cast

from peft.config import PeftConfig
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer
from peft.utils import get_quantization_kwargs
from peft.utils.error import NoMatchingPeftModuleError
from torch import Tensor, nn

from multilora.errors import InputError
from multilora.tuner.checks import (
    NoMatchingModuleError,
    keep_off_fast_paths,
    refuse_tied,
    refuse_unmatched,
    skipped_layers,
    warn_of_full_rank,
    warn_of_heads,
)
from multilora.tuner.combining import Combination, add_combination
from multilora.tuner.config import MultiLoraConfig
from multilora.tuner.coverage import stop_watching, warn_of_unreached, watch_first_forward
from multilora.tuner.keys import check_adapter_name, current_key, is_wrapped, tensors_of_layers
from multilora.tuner.layer import MultiLoraLayer
from multilora.tuner.linear import MultiLoraLinear, can_adapt
from multilora.tuner.merging import merge_fault, shared_weights
from multilora.tuner.mixed import adapter_names_passed
from multilora.tuner.parallel import refuse_tensor_parallel
from multilora.tuner.peft_calls import change_peft_calls
from multilora.tuner.quantizers import prepare
from multilora.tuner.rollback import unchanged_on_error
from multilora.tuner.state import (
    check_config,
    check_function_of_old_keys,
    check_state,
    layer_settings,
    warn_of_overlapping_patterns,
)
from multilora.tuner.targets import (
    adaptation_fault,
    check_target,
    expand_all_linear,
    linear_layer_names,
    nearest_layers,
)

# Kinds of adapted layers: whether a base layer is of the kind, and the class that adapts it. The first that fits.
LAYER_TYPES: tuple[tuple[Callable[[nn.Module], bool], type[MultiLoraLayer]], ...] = ((can_adapt, MultiLoraLinear),)


class MultiLoraModel(BaseTuner):
    """A model whose targeted linear layers carry MultiLoRA adapters; made by `peft.get_peft_model`.

    Args:
        model: the base model; changed in place.
        config: a `MultiLoraConfig`.
        adapter_name: the adapter's name.

    Raises:
        InputError: a targeted module cannot be adapted, or none matches; the message names them.
    """

    prefix = "multilora_"
    tuner_layer_cls = MultiLoraLayer
    target_module_mapping: dict[str, list[str]] = {}  # noqa: RUF012 - PEFT's declaration; target_modules=None means "all-linear" for every model

    def inject_adapter(self, model: nn.Module, adapter_name: str, *args: Any, **kwargs: Any) -> None:
        """As PEFT's, which puts the layers in; a failure leaves the model, and the configuration, as they were.

        Raises:
            InputError: nothing matches, or something that cannot be adapted does.
        """
        config = cast(MultiLoraConfig, self.peft_config[adapter_name])
        with unchanged_on_error(model, config):
            self._inject(model, adapter_name, config, *args, **kwargs)

    def _inject(self, model: nn.Module, adapter_name: str, config: MultiLoraConfig, *args: Any, **kwargs: Any) -> None:
        _check_name(model, adapter_name)
        change_peft_calls()
        wanted, names = config.target_modules, linear_layer_names(model)
        if kwargs.get("state_dict") is None and isinstance(wanted, (set, list)):
            refuse_unmatched(wanted, model, names)
            if not config.inference_mode:
                warn_of_heads(wanted, model, config)
        skipped = expand_all_linear(config, model)
        if skipped and not config.inference_mode:
            warnings.warn(skipped_layers(skipped), stacklevel=3)
        prepare(model)  # layers without an adapter pass gradients on to those that have one
        try:
            super().inject_adapter(model, adapter_name, *args, **kwargs)
        except NoMatchingPeftModuleError as error:
            raise NoMatchingModuleError(
                f"target_modules {wanted!r} match no linear layer ({error}){nearest_layers([str(wanted)], names)}. "
                "`multilora targets MODEL` lists all"
            ) from error
        adapted = [
            n for n, layer in model.named_modules() if isinstance(layer, MultiLoraLayer) and adapter_name in layer.r
        ]
        warn_of_overlapping_patterns(config, adapted)
        if not config.inference_mode:
            refuse_tied(model, adapter_name)
            warn_of_unreached(model, config)
            watch_first_forward(model)
        warn_of_full_rank(model, adapter_name)

    @staticmethod
    def _check_target_module_exists(peft_config: PeftConfig, key: str) -> Any:
        return check_target(peft_config, key)

    def _create_and_replace(  # pyright: ignore[reportIncompatibleMethodOverride] - PEFT pairs tuner and config
        self,
        peft_config: MultiLoraConfig,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        parameter_name: str | None = None,
    ) -> None:
        base_layer = target.get_base_layer() if isinstance(target, BaseTunerLayer) else target
        refuse_tensor_parallel(base_layer, current_key)
        layer_type = next((kind for accepts, kind in LAYER_TYPES if accepts(base_layer)), None)
        fault = None if peft_config.inference_mode else adaptation_fault(self.model, current_key, everywhere=True)
        if layer_type is None or fault:
            raise InputError(
                f"Target module {current_key!r} is not supported: it is a {type(base_layer).__module__}."
                f"{type(base_layer).__qualname__}, and MultiLoRA adapts torch.nn.Linear, transformers' Conv1D and "
                f"quantised linear layers{f' ({fault})' if fault else ''}. Leave it out of target_modules, or name it "
                f"in exclude_modules=[{target_name!r}]"
            )
        arguments: dict[str, Any] = layer_settings(peft_config, current_key) | {
            "lora_dropout": peft_config.lora_dropout,
            "init_weights": peft_config.init_weights,
            "exact_unmerge": peft_config.exact_unmerge,
            "inference_mode": peft_config.inference_mode,
        }
        if isinstance(target, MultiLoraLayer):
            target.update_layer(adapter_name, **arguments)
        else:
            layer = layer_type(target, adapter_name, **arguments, **get_quantization_kwargs(self.model))
            if adapter_name not in self.active_adapters:
                layer.requires_grad_(False)  # an adapter added beside the active one is not trained
            if isinstance(parent, nn.TransformerEncoderLayer):
                keep_off_fast_paths(self.model, parent, layer)
            self._replace_module(parent, target_name, layer, target)

    def _check_target_module_compatiblity(self, peft_config: PeftConfig, model: nn.Module, target_name: str) -> None:
        """PEFT's table of Mamba's layers goes by their names alone; ours is asked where a layer is adapted."""

    def _replace_module(self, parent: nn.Module, child_name: str, new_module: nn.Module, child: nn.Module) -> None:
        # PEFT's own version also assigns `child.weight` to the new module, which a base layer that comes back has
        # already and which fails for trainable tokens; our layers put themselves on the base layer's device.
        setattr(parent, child_name, new_module)

    def _check_merge_allowed(self) -> None:
        """Before any layer is merged, so that a refusal leaves the whole model as it was.

        Raises:
            InputError: a base weight is another module's too, or is not what its layer computes with.
        """
        super()._check_merge_allowed()
        if shared := shared_weights(self.model):
            name, other = shared[0]
            raise InputError(
                f"cannot merge: {name!r} and {other!r} share one weight, and ΔW belongs to the first alone. Give the "
                "first a weight of its own before adapting it (a clone; for a tied output layer tie_word_embeddings="
                "False as well), or leave it out with exclude_modules"
            )
        for name, module in self.model.named_modules():
            if not isinstance(module, MultiLoraLayer):
                continue
            weight = module.get_base_layer()._parameters.get("weight")
            offloaded = weight is not None and weight.is_meta  # loaded, and looked at, when its turn comes
            if not offloaded and (fault := merge_fault(module)):
                raise InputError(f"cannot merge into {name!r}: {fault}")

    def _unload_and_optionally_merge(self, *args: Any, **kwargs: Any) -> Any:
        unloaded: Any = super()._unload_and_optionally_merge(*args, **kwargs)
        stop_watching(self.model)
        return unloaded

    def add_weighted_adapter(
        self,
        adapters: list[str],
        weights: list[float],
        adapter_name: str,
        combination_type: str = "svd",
        svd_rank: int | None = None,
        svd_clamp: float | None = None,
        svd_full_matrices: bool = True,
        svd_driver: str | None = None,
        density: float | None = None,
        majority_sign_method: str = "total",
    ) -> None:
        """Add an adapter made of several, with the arguments of PEFT's LoRA; "cat" is the exact weighted sum of ΔW.

        Args:
            adapters: names of adapters.
            weights: of each; negative ones subtract.
            adapter_name: of the new adapter, which is inactive and without gradient.
            combination_type: one of `multilora.tuner.combining.COMBINATIONS`, which says what each is.
            svd_rank: rank of the kinds with "svd"; None: the adapters' largest num_loras * r.
            svd_clamp: not available.
            svd_full_matrices, svd_driver: without effect: the decomposition is one of the factors.
            density: share of numbers that pruning keeps.
            majority_sign_method: "total" or "frequency", for the kinds with "ties".

        Raises:
            InputError: an argument is out of range, or the adapters cannot be combined so. Nothing was added.
        """
        if svd_clamp is not None:
            raise InputError(
                f"svd_clamp={svd_clamp!r} is not available: the roots of the singular values stand on both sides, so a "
                "clamp would do something else than in PEFT's LoRA. Leave it out"
            )
        how = Combination(combination_type, svd_rank, density, majority_sign_method)
        add_combination(self, adapters, weights, adapter_name, how)

    @contextmanager
    def _enable_peft_forward_hooks(self, *args: Any, **kwargs: Any) -> Generator[None]:
        with adapter_names_passed(self, kwargs.pop("adapter_names", None), kwargs.get("num_beams") or 1):
            yield

    # Loading and saving -------------------------------------------------------------------------------------------

    @classmethod
    def _remap_adapter_state_dict_for_load(
        cls, model: nn.Module, config: PeftConfig, adapter_name: str, state_dict: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        current = {current_key(key, adapter_name): tensor for key, tensor in state_dict.items()}
        if current.keys() != state_dict.keys():
            check_function_of_old_keys(cast(MultiLoraConfig, config), adapter_name)
        state_dict = current
        remapped = super()._remap_adapter_state_dict_for_load(model, config, adapter_name, state_dict)
        check_state(model, config, adapter_name, remapped)
        return remapped

    @classmethod
    def _get_adapter_state_dict(
        cls,
        model: nn.Module,
        config: PeftConfig,
        adapter_name: str,
        state_dict: dict[str, Tensor],
        *args: Any,
        **kwargs: Any,
    ) -> dict[str, Tensor]:
        check_config(model, cast(MultiLoraConfig, config), adapter_name)
        if is_wrapped(model):  # PEFT finds none of the tensors inside what FSDP1 has wrapped, and saves an empty file
            return tensors_of_layers(model, MultiLoraLayer, state_dict, cast(MultiLoraConfig, config).bias)
        return super()._get_adapter_state_dict(model, config, adapter_name, state_dict, *args, **kwargs)


def _check_name(model: nn.Module, adapter_name: str) -> None:
    """Of an adapter that the model does not have yet."""
    if not any(isinstance(module, MultiLoraLayer) and adapter_name in module.r for module in model.modules()):
        tensors = chain(model.named_parameters(), model.named_buffers())
        check_adapter_name(adapter_name, (name for name, _ in tensors))
