"""Fixtures for all tests. Offline by construction: the hub is closed before any library reads the environment."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable
from fnmatch import fnmatchcase
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # a worker has one core, and so has what it starts

import pytest
import torch
from hypothesis import settings
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PreTrainedModel

from places import ROOT

# Property tests: `gate` in `make test`, `full` in `make test-all` (--hypothesis-profile full). A test that wants fewer
# examples than `full` says so by `effort.examples`.
settings.register_profile("gate", max_examples=25, deadline=None)
settings.register_profile("full", max_examples=200, deadline=None, print_blob=True)
settings.load_profile("gate")

# Files that take longest, longest first, so that at the end no worker waits for another one.
LONGEST = (
    "end_to_end/test_demo.py",
    "end_to_end/test_compare.py",
    "end_to_end/test_sharded.py",
    "end_to_end/test_processes.py",
    "training/test_run.py",
    "training/test_validation.py",
    "resources/test_memory.py",
    "end_to_end/test_train_kill.py",
    "cli/test_bench_command.py",
    "benchmarks/test_benchmarks.py",
    "benchmarks/test_gpu_benchmark.py",
    "report/test_browser.py",
    "miniature/test_base.py",
)


# What `make test-all` has beyond `make test`, beside tests marked so where they stand: cases of a law of which others
# stay, the toys of benchmarks whose parts have tests, sweeps over real data, and two long ones: the demo's study, and
# divided models, whose files and options are tested in `make test`.
FULL = (
    "benchmarks/test_benchmarks.py::*_record*",
    "benchmarks/test_gpu_benchmark.py::*",
    "benchmarks/test_merge_benchmark.py::*",
    "cli/test_bench_command.py::test_a_method_without_memory_is_named_and_the_others_are_measured",
    "cli/test_merge_command.py::test_the_result_loads_where_multilora_and_peft_are_not",
    "data/test_packing.py::test_the_real_mixture_fills_its_rows",
    "data/test_streaming.py::test_memory_does_not_grow_with_the_data",
    "end_to_end/test_compare.py::test_a_cell_that_fails_is_named_and_the_others_are_kept",
    "end_to_end/test_demo.py::*",
    "end_to_end/test_processes.py::test_the_command_speaks_once_and_fails_once",
    "end_to_end/test_sharded.py::*",
    "evaluation/test_against_stock.py::test_mmlu[abstract_algebra]",
    "evaluation/test_against_stock.py::test_mmlu[high_school_us_history]",
    "evaluation/test_against_stock.py::test_mmlu[us_foreign_policy]",
    "evaluation/test_against_stock.py::test_prompts_and_likelihoods[c*",
    "evaluation/test_against_stock.py::test_prompts_and_likelihoods[wic]",
    "evaluation/test_against_stock.py::test_prompts_of_all_rows*",
    "gpu/test_layer_on_devices.py::test_a_compiled_block_trains_as_an_eager_one[cpu*",
    "gpu/test_training_on_devices.py::test_three_steps_are_those_of_a_cpu[cpu*",
    "miniature/test_base.py::test_every_token_of_the_tasks_was_read_in_training",
    "miniature/test_base.py::test_it_cannot_do_the_tasks",
    "miniature/test_text.py::test_no_prompt_of_a_task_is_in_the_text",
    "report/test_browser.py::test_everything_is_drawn_quietly_and_fits[1200-dark]",
    "report/test_browser.py::test_everything_is_drawn_quietly_and_fits[360-light]",
    "resources/test_memory.py::test_quantised_weights_are_in_the_estimate[*checkpointing*]",
    "resources/test_memory.py::test_quantised_weights_are_in_the_estimate[*double_quant*]",
    "resources/test_memory.py::test_quantised_weights_are_in_the_estimate[lora-*]",
    "resources/test_memory.py::test_the_estimate_is_near_a_measured_run[*-bf16-checkpointed]",
    "resources/test_memory.py::test_the_estimate_is_near_a_measured_run[*-fp32-*]",
    "spectral/test_spectrum_benchmark.py::*",
    "tasks/test_hub_real_data.py::*",
    "tasks/test_real_data.py::test_every_row_of_the_data_set[multirc*",
    "tuner/test_registration.py::test_order_of_imports_does_not_matter[peft]",
    "tuner/test_registration.py::test_order_of_imports_does_not_matter[transformers]",
)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files come first; pytest-xdist hands out whole files (--dist loadfile) in this order."""
    place = {ROOT / "tests" / name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path, len(place)))  # stable
    for item in items:
        if any(fnmatchcase(item.nodeid.removeprefix("tests/"), pattern.replace("[", "[[]")) for pattern in FULL):
            item.add_marker(pytest.mark.full)


def pytest_collection_finish() -> None:
    """What is imported stays: let the garbage collector, which every training run calls, not look at it each time."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder that holds `data/` and `models/`: `MULTILORA_DATA`, or `shared` beside the checkout."""
    folder = Path(os.environ.get("MULTILORA_DATA", ROOT.parent / "shared"))
    if not ((folder / "data").is_dir() and (folder / "models").is_dir()):
        pytest.skip(f"needs real data: {folder} has no data/ and models/; set MULTILORA_DATA to the folder that has")
    return folder


@pytest.fixture
def make_llama() -> Callable[..., PreTrainedModel]:
    """A factory of small random Llamas in eval mode, the same weights for the same seed."""

    def make(seed: int = 0, **changes: int) -> PreTrainedModel:
        torch.manual_seed(seed)
        shape = {
            "vocab_size": 67,
            "hidden_size": 48,
            "intermediate_size": 80,
            "num_hidden_layers": 2,
            "num_attention_heads": 6,
            "num_key_value_heads": 3,
            "max_position_embeddings": 64,
        }
        return LlamaForCausalLM(LlamaConfig(**(shape | changes))).eval()

    return make


@pytest.fixture
def make_gpt2() -> Callable[..., PreTrainedModel]:
    """A factory of small random GPT-2s (Conv1D layers with biases) in eval mode."""

    def make(seed: int = 0) -> PreTrainedModel:
        torch.manual_seed(seed)
        config = GPT2Config(vocab_size=67, n_positions=64, n_embd=48, n_layer=2, n_head=4, pad_token_id=0)
        return GPT2LMHeadModel(config).eval()

    return make
