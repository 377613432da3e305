"""The tasks by name, and the one function that makes a task of its section in a recipe."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

from multilora.tasks.alpaca import Alpaca
from multilora.tasks.boolq import BoolQ
from multilora.tasks.cb import CB
from multilora.tasks.chat import ChatTask
from multilora.tasks.copa import COPA
from multilora.tasks.example import Task
from multilora.tasks.folder import FolderTask
from multilora.tasks.gsm8k import GSM8K
from multilora.tasks.hub import HubSource
from multilora.tasks.jsonl import JsonlTask
from multilora.tasks.mmlu import MMLU
from multilora.tasks.multirc import MultiRC
from multilora.tasks.record import ReCoRD
from multilora.tasks.rte import RTE
from multilora.tasks.template import Template
from multilora.tasks.wic import WiC
from multilora.tasks.wsc import WSC

if TYPE_CHECKING:
    from multilora.recipe import BuiltInTaskSection, ChatTaskSection, TaskSection

BuiltIn = Literal["alpaca", "boolq", "cb", "copa", "gsm8k", "mmlu", "multirc", "record", "rte", "wic", "wsc"]

BUILT_IN: Mapping[BuiltIn, type[FolderTask]] = MappingProxyType(
    {
        "alpaca": Alpaca,
        "boolq": BoolQ,
        "cb": CB,
        "copa": COPA,
        "gsm8k": GSM8K,
        "mmlu": MMLU,
        "multirc": MultiRC,
        "record": ReCoRD,
        "rte": RTE,
        "wic": WiC,
        "wsc": WSC,
    }
)


def build_task(name: str, section: TaskSection | ChatTaskSection | BuiltInTaskSection) -> Task:
    """The task that a section of a recipe describes. No file is touched.

    Args:
        name: the task's name in the recipe.
        section: its section.
    """
    if section.task == "chat":
        return ChatTask(name, _train(section), chat_template=section.chat_template, **_lines(name, section))
    if section.task == "jsonl":
        return JsonlTask(
            name,
            _train(section),
            [Template.parse(text) for text in section.prompt],
            Template.parse(section.completion) if section.completion is not None else None,
            [Template.parse(text) for text in section.choices],
            section.answer,
            section.labels,
            section.score,
            **_lines(name, section),
        )
    kind, hub = BUILT_IN[section.task], None
    if section.folder is None:
        usual = kind.on_hub
        hub = HubSource(f"tasks.{name}.hub", section.hub or usual.id, usual.config, section.revision)
    folder = section.folder or Path()
    if section.task == "mmlu":
        return MMLU(name, folder, section.validation_share, section.auxiliary, section.shots, hub=hub)
    return kind(name, folder, section.validation_share, hub=hub)


def _train(section: TaskSection | ChatTaskSection) -> list[Path]:
    return section.train or [Path("train")]  # the split's name on the Hub


def _lines(name: str, section: TaskSection | ChatTaskSection) -> dict[str, Any]:
    """What `LinesTask` has beside name and training rows."""
    hub = section.hub and HubSource(f"tasks.{name}.hub", section.hub, section.config, section.revision)
    return {
        "validation": section.validation,
        "test": section.test,
        "validation_share": section.validation_share,
        "id_field": section.id,
        "hub": hub,
    }
