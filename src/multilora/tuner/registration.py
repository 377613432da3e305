"""Registration with PEFT: the only place that touches PEFT's registry.

PEFT has no plug-in interface: `PeftType` is a closed enum, and a plain string in its tables breaks transformers'
`load_adapter`. So a member is added to the enum at run time, and then PEFT's own `register_peft_method` does the rest.
transformers renames an adapter's keys by itself, past PEFT; the key of an old file gets its renaming there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from peft.utils import PeftType, register_peft_method

if TYPE_CHECKING:
    from peft import PeftConfig
    from peft.tuners.tuners_utils import BaseTuner

MULTILORA = "MULTILORA"


def add_peft_type() -> None:
    """Add the member MULTILORA to `PeftType`, once. Lookup by value, by name and iteration then find it."""
    if MULTILORA in PeftType.__members__:
        return
    enum: Any = PeftType
    member = str.__new__(enum, MULTILORA)
    member._name_ = member._value_ = MULTILORA
    member.__objclass__ = enum
    member._sort_order_ = len(enum._member_names_)
    enum._member_names_.append(MULTILORA)
    enum._member_map_[MULTILORA] = member
    enum._value2member_map_[MULTILORA] = member
    # Since 3.12 a member is also an attribute of the class; EnumType itself forbids setting one.
    type.__setattr__(enum, MULTILORA, member)


def register(config_cls: type[PeftConfig], model_cls: type[BaseTuner]) -> None:
    """Enter the method into PEFT's tables, once per process.

    Raises:
        RuntimeError: PEFT already has a method of this name that is not ours (a later PEFT may bring one).
    """
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    present = PEFT_TYPE_TO_CONFIG_MAPPING.get(PeftType(MULTILORA))
    if present is None:
        register_peft_method(name=MULTILORA.lower(), config_cls=config_cls, model_cls=model_cls)
        _have_transformers_read_old_keys()
    elif present is not config_cls:
        raise RuntimeError(
            f"PEFT already has a method {MULTILORA} ({present.__module__}.{present.__qualname__}); this package and "
            "that one cannot both be in use. Import only one of them"
        )


def _have_transformers_read_old_keys() -> None:
    """Add to the renamings that transformers applies to every checkpoint that it reads, `load_adapter`'s included.

    It has the adapter's name in the key by then. No key but an old adapter's fits.
    """
    from transformers.conversion_mapping import (
        get_checkpoint_conversion_mapping,
        register_checkpoint_conversion_mapping,
    )
    from transformers.core_model_loading import WeightRenaming

    renaming = WeightRenaming(r"(multilora_(?:A|B|scaling)\.[^.]+)$", r"\1.weight")
    known = get_checkpoint_conversion_mapping("legacy") or []
    register_checkpoint_conversion_mapping("legacy", [*known, renaming], overwrite=True)
