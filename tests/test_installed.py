"""Installed is enough: third-party code finds the method though nobody imports multilora (`multilora_autoload`)."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer

from adapter_files import load, save_adapter, tokens
from multilora import MultiLoraConfig
from places import ROOT
from tiny_run import make_model


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that says what the installed package would: its name, its version, its entry points."""
    folder = tmp_path_factory.mktemp("installed")
    info = folder / f"multilora-{version('multilora')}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: multilora\nVersion: {version('multilora')}\n")
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]
    assert list(groups) == ["torch.backends"]
    lines = (f"[{group}]\n" + "".join(f"{k} = {v}\n" for k, v in names.items()) for group, names in groups.items())
    (info / "entry_points.txt").write_text("\n".join(lines))
    return folder


def run(code: str | list[str], *first: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Python with `first` and src at the head of its path, in a folder that has no multilora; a warning is an error."""
    path = os.pathsep.join(map(str, (*first, ROOT / "src")))
    arguments = ["-W", "error:multilora", "-c", code] if isinstance(code, str) else code
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=first[0],
        env=os.environ | {"PYTHONPATH": path} | environment,
        capture_output=True,
        text=True,
        check=False,
    )


# What stands between ----------------------------------------------------------------------------------------------
# Toys in the places of peft and multilora: the order of imports is all that matters here, and a process takes 50 ms.

TOYS = {
    "torch/__init__.py": "import multilora_autoload\nmultilora_autoload.install()\n",
    # As PEFT does: torch first, then the tuners, and the package has work left afterwards.
    "peft/__init__.py": "import torch\nimport peft.tuners\nstate = 'complete'\n",
    "peft/tuners/__init__.py": "methods = ['LORA']\n",
    "multilora/__init__.py": "import torch\nfrom peft.tuners import methods\nmethods.append('MULTILORA')\n",
}


@pytest.fixture
def toys(tmp_path: Path) -> Path:
    for name, text in TOYS.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


@pytest.mark.parametrize(
    "order",
    [
        "import torch, peft",
        "import peft",
        "from peft.tuners import methods; import peft",
        "import multilora, peft",
        "import torch, multilora, peft",
        "import peft, multilora",
        "import torch, multilora_autoload; multilora_autoload.install(); import peft",
        "import peft, sys; del sys.modules['torch']; import torch",
    ],
)
def test_the_method_is_registered_once_in_any_order(toys: Path, order: str) -> None:
    done = run(f"{order}\nprint(peft.tuners.methods, peft.state)", toys)
    assert (done.stdout, done.stderr) == ("['LORA', 'MULTILORA'] complete\n", "")


def test_nothing_is_imported_before_peft_is(toys: Path) -> None:
    code = "import sys, multilora_autoload; multilora_autoload.install(); import json; print(set(sys.modules) & {%s})"
    done = run(code % "'torch', 'peft', 'multilora'", toys)
    assert (done.stdout, done.stderr) == ("set()\n", "")


def test_it_can_be_switched_off(toys: Path) -> None:
    code = "import sys, torch, peft.tuners\nprint(peft.tuners.methods, 'multilora' in sys.modules)"
    assert run(code, toys, MULTILORA_AUTOLOAD="0").stdout == "['LORA'] False\n"
    assert run(f"{code}; import multilora; print(peft.tuners.methods)", toys, MULTILORA_AUTOLOAD="0").stdout == (
        "['LORA'] False\n['LORA', 'MULTILORA']\n"
    )


@pytest.mark.parametrize("error", ["ImportError", "KeyboardInterrupt"])
def test_an_error_of_peft_stays_its_own_and_its_next_import_registers(toys: Path, error: str) -> None:
    file = toys / "peft/tuners/__init__.py"
    file.write_text(f"raise {error}('PEFT is broken')\n")
    code = (
        f"import torch\ntry:\n    import peft\nexcept {error} as e:\n    print(repr(e), e.__cause__, e.__context__)\n"
        f"open({str(file)!r}, 'w').write('methods = []  # mended')\nimport importlib; importlib.invalidate_caches()\n"
        "import peft; print(peft.tuners.methods)"
    )
    done = run(code, toys, PYTHONDONTWRITEBYTECODE="1")
    assert (done.stdout, done.stderr) == (f"{error}('PEFT is broken') None None\n['MULTILORA']\n", "")


def test_without_peft_there_is_python_s_own_error(toys: Path) -> None:
    (toys / "peft/tuners/__init__.py").unlink()
    (toys / "peft/tuners").rmdir()
    code = "import torch\ntry:\n    import peft\nexcept ModuleNotFoundError as e:\n    print(e)"
    done = run(code, toys)
    assert (done.stdout, done.stderr) == ("No module named 'peft.tuners'\n", "")


def test_an_error_of_ours_is_one_line_and_peft_is_imported(toys: Path) -> None:
    (toys / "multilora/__init__.py").write_text("raise RuntimeError('PEFT already has a method MULTILORA')\n")
    code = (
        "import warnings, torch\n"
        "with warnings.catch_warnings(record=True, action='always') as caught:\n    import peft\n"
        "print(peft.state, *(w.message for w in caught), sep='\\n')"
    )
    state, *messages = run(code, toys).stdout.splitlines()
    assert state == "complete"
    (message,) = messages
    assert "(RuntimeError: PEFT already has a method MULTILORA)" in message
    assert "MULTILORA_AUTOLOAD=0" in message


def test_it_leaves_no_trace(toys: Path) -> None:
    """The module's loader and spec are what they are without it; reloading, sources and metadata work as ever."""
    code = """
import importlib, importlib.metadata, importlib.resources, inspect, sys
sys.modules["multilora_autoload"] = sys  # without it
sys.install = lambda: None
import peft
del sys.modules["multilora_autoload"]
first = type(peft.tuners.__spec__.loader), type(peft.tuners.__loader__)
for name in ("peft", "peft.tuners", "torch"):
    del sys.modules[name]
import torch
finders = sys.meta_path[1:]
assert importlib.metadata.version("pytest")
import peft
assert (type(peft.tuners.__spec__.loader), type(peft.tuners.__loader__)) == first
assert peft.tuners.__spec__.loader is peft.tuners.__loader__
assert sys.meta_path == finders
assert "methods" in inspect.getsource(peft.tuners)
assert importlib.resources.files(peft.tuners).joinpath("__init__.py").is_file()
assert importlib.reload(peft.tuners).methods == ["LORA"]
"""
    done = run(code, toys)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("file", sorted((ROOT / "src/multilora/tuner").glob("*.py")), ids=lambda file: file.name)
def test_the_method_imports_from_peft_s_modules(file: Path) -> None:
    """`from peft import …` fails while PEFT is on its way, and `import peft` is the hook's way: name the module."""
    at_once = [node for node in ast.parse(file.read_text()).body if isinstance(node, ast.ImportFrom)]
    assert "peft" not in [node.module for node in at_once]


# The real ones ----------------------------------------------------------------------------------------------------

LOADERS = """
import sys
from transformers import AutoModelForCausalLM, AutoTokenizer, pipeline
base, adapter = sys.argv[1:]
assert "peft" not in sys.modules and "multilora" not in sys.modules
models = [pipeline("text-generation", model=adapter, tokenizer=base).model]
assert "multilora" in sys.modules
import peft
assert peft.PeftType("MULTILORA").name == "MULTILORA" and not hasattr(peft, "tasks")
models.append(AutoModelForCausalLM.from_pretrained(adapter))
models.append(peft.AutoPeftModelForCausalLM.from_pretrained(adapter))
loaded = AutoModelForCausalLM.from_pretrained(base)
loaded.load_adapter(adapter)
models.append(loaded)
import torch
ids = torch.load(base + "/tokens.pt")
with torch.no_grad():
    torch.save([model.eval()(ids, use_cache=False).logits for model in models], base + "/logits.pt")
assert "multilora.adapter" not in sys.modules, "only what the method needs"
"""


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A base model and an adapter that names it."""
    folder = tmp_path_factory.mktemp("adapter")
    base = AutoModelForCausalLM.from_pretrained(make_model(folder / "base")).eval()
    torch.save(tokens(base), folder / "base/tokens.pt")
    config = MultiLoraConfig(r=4, num_loras=2, init_weights=False, task_type="CAUSAL_LM")
    torch.save(save_adapter(base, folder / "adapter", config), folder / "base/expected.pt")
    return folder / "base", folder / "adapter"


def test_transformers_and_peft_load_an_adapter(installed: Path, adapter: tuple[Path, Path]) -> None:
    base, folder = adapter
    (installed / "loaders.py").write_text(LOADERS)
    done = run(["loaders.py", str(base), str(folder)], installed)
    assert done.returncode == 0, done.stderr
    expected = torch.load(base / "expected.pt")
    found = torch.load(base / "logits.pt")
    assert len(found) == 4
    for each in found:
        assert (each - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.full  # above, transformers has imported torch
def test_peft_first_is_early_enough(installed: Path) -> None:
    done = run("import peft; print(peft.PeftType('MULTILORA').name, peft.tuners.__spec__.loader.name)", installed)
    assert done.stdout == "MULTILORA peft.tuners\n", done.stderr


@pytest.mark.full
def test_the_command_of_lm_eval_scores_an_adapter(installed: Path, adapter: tuple[Path, Path], tmp_path: Path) -> None:
    base, folder = adapter
    rows = [("one two", ["three", "four"], 0), ("two", ["one", "six"], 1)]
    lines = (json.dumps({"q": q, "choices": choices, "gold": gold}) for q, choices, gold in rows)
    (tmp_path / "rows.jsonl").write_text("\n".join(lines))
    task: dict[str, Any] = {
        "task": "toy",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(tmp_path / "rows.jsonl")}},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "{{q}}",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "{{gold}}",
        "metric_list": [{"metric": "acc"}],
    }
    (tmp_path / "toy.yaml").write_text(yaml.safe_dump(task))

    command = f"-m lm_eval --model hf --model_args pretrained={base},peft={folder} --device cpu --tasks toy"
    command += f" --include_path {tmp_path} --output_path {tmp_path}/out --log_samples"
    done = run(command.split(), installed, HF_DATASETS_CACHE=str(tmp_path / "cache"))
    assert done.returncode == 0, done.stderr

    (samples,) = (tmp_path / "out").rglob("samples_toy*.jsonl")
    found = [answer for line in samples.read_text().splitlines() for answer in json.loads(line)["filtered_resps"]]
    assert len(found) == 4
    tokenizer = AutoTokenizer.from_pretrained(base)
    model = load(AutoModelForCausalLM.from_pretrained(base), folder)
    for (prompt, choice), (score, _) in zip(((q, c) for q, cs, _ in rows for c in cs), found, strict=True):
        start = len(tokenizer(prompt).input_ids)
        ids = tokenizer(f"{prompt} {choice}", return_tensors="pt").input_ids
        with torch.no_grad():
            of_all = model(ids).logits.log_softmax(-1)[0, :-1].gather(1, ids[0, 1:, None])
        assert abs(float(score) - of_all[start - 1 :].sum()) <= 1e-4 * abs(float(score))
