"""Run PEFT's own `tests/test_custom_models.py` on MultiLoRA (`make peer-tests`).

The tests come from the source distribution of the installed PEFT version, which pip fetches; nothing of theirs is kept
in this project. Their case tables are filled in place with the rows of `cases.py`, so that every law that PEFT checks
for its own methods is checked for ours. Tests of single other methods run as they are: they show that registering
MultiLoRA disturbs none of them.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
WORK = ROOT / ".peer-tests"

# The line before which a table of ours replaces PEFT's.
_TABLES = {
    "TEST_CASES": "ALL_PEFT_CONFIG_CLASSES = sorted(",
    "MULTIPLE_ACTIVE_ADAPTERS_TEST_CASES": "def _skip_tests_with_multiple_adapters_with_target_parameters(",
}
# They load a model from the hub.
NEED_THE_HUB = (
    "TestPeftCustomModel::test_delete_adapter_multiple_adapters_with_trainable_token_indices",
    "TestPeftCustomModel::test_multiple_adapters_automatic_modules_to_save",
    "TestPeftCustomModel::test_multiple_adapters_seq_cls_mixed_modules_to_save_merging_adapters",
    "TestPeftCustomModel::test_multiple_adapters_no_needless_copy_modules_to_save",
    "TestPeftCustomModel::test_gpt2_dora_merge_and_unload",
    "TestPeftCustomModel::test_gpt2_dora_merge_and_unload_safe_merge",
    "TestPeftCustomModel::test_dora_save_and_load_remapping",
    "TestPeftCustomModel::test_pvera_reproducible",
    "TestDynamicDispatch::test_override_lora_linear",
)

# These add a second adapter, or expect the base model's biases unchanged: a config that trains biases can do neither,
# and PEFT's LoRA with bias="lora_only" fails exactly these too.
NOT_WITH_TRAINED_BIAS = (
    "test_active_adapter",
    "test_adapter_dtype_autocast",
    "test_delete_adapter",
    "test_delete_inactive_adapter",
    "test_delete_merged_adapter_only_rejects_the_merged_one",
    "test_disable_adapters",
    "test_disable_adapters_with_merging",
    "test_load_model_low_cpu_mem_usage",
    "test_load_multiple_adapters",
    "test_only_params_are_updated",
    "test_save_pretrained_adapter_name_substring",
    "test_training_custom_models",
)


def fetch(peft_version: str) -> Path:
    """The source distribution, fetched once and unpacked afresh; returns its folder."""
    archive_path = WORK / f"peft-{peft_version}.tar.gz"
    if not archive_path.is_file():
        WORK.mkdir(exist_ok=True)
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-build-isolation"]
        subprocess.run([*command, "--no-binary", "peft", f"peft=={peft_version}", "--dest", str(WORK)], check=True)
    with tarfile.open(archive_path) as archive:
        archive.extractall(WORK, filter="data")
    return WORK / f"peft-{peft_version}"


def with_our_tables(source: str) -> str:
    """PEFT's test file with our rows in place of theirs."""
    for table, before in _TABLES.items():
        if source.count(f"\n{before}") != 1:
            raise SystemExit(
                f"PEFT's test_custom_models.py has changed: no single line {before!r}; mend tests/peer/run.py"
            )
        source = source.replace(
            f"\n{before}", f"\nfrom multilora_cases import {table} as _OURS\n{table}[:] = _OURS\n\n{before}"
        )
    return source


def main() -> int:
    tests = fetch(version("peft")) / "tests"
    (tests / "__init__.py").touch()
    file = tests / "test_custom_models.py"
    file.write_text(with_our_tables(file.read_text()))
    (WORK / "multilora_cases.py").write_text((Path(__file__).parent / "cases.py").read_text())
    environment = os.environ | {
        "HF_HUB_OFFLINE": "1",
        "PYTHONPATH": str(WORK),
        "TOKENIZERS_PARALLELISM": "false",
    }
    deselect = [argument for name in NEED_THE_HUB for argument in ("--deselect", f"tests/{file.name}::{name}")]
    bias = " or ".join(f"{name}[" for name in NOT_WITH_TRAINED_BIAS)
    # Their pyproject asks for coverage options; their warnings about themselves say nothing about us.
    options = [
        "-q",
        "-p",
        "no:cacheprovider",
        "-o",
        "addopts=",
        "--disable-warnings",
        "-k",
        f"not (trained_bias and ({bias}))",
    ]
    command = [sys.executable, "-m", "pytest", *options, f"tests/{file.name}", *deselect, *sys.argv[1:]]
    return subprocess.run(command, cwd=tests.parent, env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
