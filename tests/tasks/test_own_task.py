"""A task of a package of one's own, installed as in examples/own_task: in every command, and what is wrong with one."""

from __future__ import annotations

import importlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml

from multilora import InputError, register_task
from multilora.recipe import Recipe
from multilora.recipe.file import load_recipe
from multilora.tasks.data_sets.boolq import BoolQSection
from multilora.tasks.registry import section_of, sections, task_names
from multilora.tasks.section import TaskSection
from multilora_cli import main
from places import ROOT
from tiny_run import make_model

EXAMPLE = ROOT / "examples" / "own_task"
Run = Callable[..., tuple[int, str]]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example, installed by pip into a folder, without network."""
    folder = tmp_path_factory.mktemp("own")
    source = shutil.copytree(EXAMPLE, folder / "source")
    options = ["--no-index", "--no-deps", "--no-build-isolation", "--disable-pip-version-check", "--quiet"]
    command = [sys.executable, "-m", "pip", "install", *options, "--target", str(folder / "site"), str(source)]
    subprocess.run(command, check=True)
    return folder / "site"


@pytest.fixture
def installed(site: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.syspath_prepend(site)
    yield
    sys.modules.pop("own_task", None)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """The console script in this process: exit code and what it printed."""

    def run(*arguments: str | Path) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["multilora", *map(str, arguments)])
        monkeypatch.setenv("COLUMNS", "200")
        capsys.readouterr()
        with pytest.raises(SystemExit) as caught:
            main.run()
        printed = capsys.readouterr()
        return int(caught.value.code or 0), printed.out + printed.err

    return run


@pytest.mark.usefixtures("installed")
def test_every_command_takes_it(tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("lm_eval", reason="needs lm-evaluation-harness: pip install 'multilora[eval]'")
    monkeypatch.chdir(shutil.copytree(EXAMPLE, tmp_path / "here"))
    monkeypatch.setenv("MODEL", str(make_model(tmp_path / "model", max_position_embeddings=256)))

    code, printed = run("data", "preview", "recipe.yaml")
    assert code == 0, printed
    assert "How does it sound" in printed

    code, printed = run("data", "check", "recipe.yaml")
    assert code == 0, printed

    code, printed = run("train", "recipe.yaml")
    assert code == 0, printed
    trained = json.loads(Path("run/results.json").read_text())
    assert trained["steps"] == 2

    code, printed = run("eval", "run")
    assert code == 0, printed
    (written,) = Path("run").rglob("eval*/**/results.json")
    scores = json.loads(written.read_text())["tasks"]["feelings"]
    assert {"accuracy", "macro_f1"} <= scores["metrics"].keys()
    assert set(scores["by_topic"]) == {"food", "weather"}

    code, printed = run("schema")
    assert code == 0, printed
    section = json.loads(printed)["$defs"]["MoodsSection"]
    assert section["properties"]["question"]["description"] == "What each sentence is asked for."


def recipe(where: Path, /, **task: object) -> Path:
    path = where / "recipe.yaml"
    data = {
        "model": "m",
        "method": {"name": "lora"},
        "tasks": {"t": task},
        "training": {"output": "o", "steps": 1},
    }
    path.write_text(yaml.safe_dump(data))
    return path


def fault(where: Path, /, **task: object) -> str:
    with pytest.raises(InputError) as caught:
        load_recipe(recipe(where, **task))
    _, line = str(caught.value).splitlines()
    return line.strip()


@pytest.mark.usefixtures("installed")
def test_its_options_are_checked_as_those_of_any_task(tmp_path: Path) -> None:
    assert task_names()[-1] == "moods"
    loaded = load_recipe(recipe(tmp_path, task="moods", folder="f", question="Q"))
    assert loaded.resolved()["tasks"]["t"].items() >= {"task": "moods", "folder": "f", "question": "Q"}.items()
    assert Recipe.model_validate(loaded.resolved()) == loaded
    assert fault(tmp_path, task="mood", folder="f").endswith("wsc, moods; got 'mood'; nearest: 'moods'")
    assert fault(tmp_path, task="moods", folder="f", qestion="Q") == (
        "tasks.t.qestion: unknown key; nearest: 'question', 'revision'"
    )
    assert "tasks.t.question: " in fault(tmp_path, task="moods", folder="f", question="")
    assert fault(tmp_path, task="moods").startswith("tasks.t: folder: name the folder with the data set's files")


def test_without_the_package_the_task_is_unknown(tmp_path: Path) -> None:
    assert "moods" not in task_names()
    assert fault(tmp_path, task="moods", folder="f").startswith("tasks.t: task must be one of jsonl, chat, alpaca, ")


# What is wrong with a package -------------------------------------------------------------------------------------

SECTION = """
from typing import Literal
from multilora.tasks.section import TaskSection

class Good(TaskSection):
    task: Literal["{name}"]
    def build(self, name): raise NotImplementedError

class Unnamed(TaskSection):
    def build(self, name): raise NotImplementedError

class Abstract(TaskSection):
    task: Literal["{name}"]

class Other: pass
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Puts a package with a task on the path, as an installation does."""
    modules: list[str] = []

    def package(name: str, task: str, value: str, code: str = SECTION) -> None:
        site = tmp_path / name
        info = site / f"{name}-1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[multilora.tasks]\n{task} = {name}:{value}\n")
        (site / f"{name}.py").write_text(code.replace("{name}", task))
        modules.append(name)
        monkeypatch.syspath_prepend(site)
        importlib.invalidate_caches()

    yield package
    for name in modules:
        sys.modules.pop(name, None)


@pytest.mark.parametrize(
    ("value", "code", "why"),
    [
        ("Good", "import nowhere_at_all", "ModuleNotFoundError: No module named 'nowhere_at_all'"),
        ("Good", "1 / 0", "ZeroDivisionError: division by zero"),
        ("Missing", SECTION, "AttributeError: "),
        ("Other", SECTION, "is not a subclass of multilora.tasks.section.TaskSection"),
        ("Unnamed", SECTION, 'broken:Unnamed needs the field `task: Literal["mine"]`'),
        ("Abstract", SECTION, "broken:Abstract has no build"),
    ],
)
def test_a_broken_package_is_one_fault_that_names_it(
    package: Callable[..., None], tmp_path: Path, value: str, code: str, why: str
) -> None:
    package("broken", "mine", value, code)
    text = fault(tmp_path, task="mine")
    assert text.startswith(
        f"tasks.t: the task 'mine' of the package broken 1.0 cannot be loaded from 'broken:{value}': "
    )
    assert why in text
    with pytest.raises(InputError, match=r"the package broken 1\.0"):
        sections()
    assert load_recipe(recipe(tmp_path, task="rte")).tasks["t"].build("t").name == "t"  # others are read as before


def test_a_good_one_beside_a_broken_one(package: Callable[..., None]) -> None:
    package("broken", "mine", "Good", "1 / 0")
    package("good", "yours", "Good")
    found = section_of("yours")
    assert found is not None
    assert (found.__module__, found.__name__) == ("good", "Good")


def test_names_that_clash_are_refused(package: Callable[..., None], tmp_path: Path) -> None:
    package("one", "mine", "Good")
    package("two", "mine", "Good")
    assert "the package one 1.0" in fault(tmp_path, task="mine")
    assert "the package two 1.0" in fault(tmp_path, task="mine")
    assert "both have a task 'mine'" in fault(tmp_path, task="mine")


def test_the_name_of_a_built_in_task_is_refused(package: Callable[..., None]) -> None:
    package("one", "rte", "Good")
    with pytest.raises(InputError, match=r"the package one 1\.0 has a task 'rte', which is the name of a built-in one"):
        sections()


# Registered by a program ------------------------------------------------------------------------------------------


@pytest.fixture
def fresh_registry() -> Iterator[None]:
    from multilora.tasks import registry

    yield
    registry._registered.cache_clear()


class Registered(TaskSection):
    """A task of a program."""

    task: Literal["registered", "again"]
    option: int = 3

    def build(self, name: str) -> Any:
        return (name, self.option)


@pytest.mark.usefixtures("fresh_registry")
def test_a_program_registers_its_own(tmp_path: Path) -> None:
    assert "registered" in fault(tmp_path, task="registered")
    register_task("registered", Registered)
    register_task("registered", Registered)  # a notebook's cell, run twice
    built: Any = load_recipe(recipe(tmp_path, task="registered", option=5)).tasks["t"].build("t")
    assert built == ("t", 5)
    assert "Registered" in Recipe.model_json_schema()["$defs"]
    assert "'option' is an option of registered" in fault(tmp_path, task="rte", option=5)


@pytest.mark.usefixtures("fresh_registry")
def test_names_that_cannot_be_registered(package: Callable[..., None]) -> None:
    class Mine(BoolQSection): ...

    with pytest.raises(InputError, match=r"the task 'boolq' exists already: .*:BoolQSection"):
        register_task("boolq", Mine)
    with pytest.raises(InputError, match='needs the field `task: Literal\\["other"\\]`'):
        register_task("other", Registered)
    with pytest.raises(InputError, match="is not a subclass of"):
        register_task("other", dict)  # pyright: ignore[reportArgumentType]
    package("one", "again", "Good")
    with pytest.raises(InputError, match=r"the task 'again' exists already, in the package one 1\.0"):
        register_task("again", Registered)
