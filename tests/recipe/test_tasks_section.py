"""The task sections of a recipe: JSON-lines files, or a built-in data set by its name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from multilora import InputError
from multilora.recipe import Recipe
from multilora.recipe.file import load_recipe
from multilora.tasks.chat import ChatTask
from multilora.tasks.data_sets.mmlu import MMLU
from multilora.tasks.folder import FolderSection, FolderTask
from multilora.tasks.hub import HubSource
from multilora.tasks.jsonl import JsonlSection, JsonlTask
from multilora.tasks.registry import built_in
from tasks.formats import DATA_SETS


def load(tmp_path: Path, **tasks: object) -> Recipe:
    path = tmp_path / "recipe.yaml"
    training = {"output": "out", "steps": 1}
    data = {"model": "m", "method": {"name": "multilora"}, "tasks": tasks, "training": training}
    path.write_text(yaml.safe_dump(data), encoding="utf-8")
    return load_recipe(path)


def faults(tmp_path: Path, **tasks: object) -> list[str]:
    with pytest.raises(InputError) as error:
        load(tmp_path, **tasks)
    return [line.strip() for line in str(error.value).splitlines()[1:]]


LINES = {"train": "t.jsonl", "prompt": "{q}", "completion": "{a}"}


@pytest.mark.parametrize("kind", DATA_SETS)
def test_a_built_in_task_by_its_name(kind: str, tmp_path: Path) -> None:
    section = load(tmp_path, t={"task": kind, "folder": "there", "rate": 2, "validation_share": "5e-2"}).tasks["t"]
    assert isinstance(section, FolderSection)
    assert (section.rate, section.on_bad_row) == (2, "fail")
    task = section.build("t")
    assert type(task) is DATA_SETS[kind]
    assert isinstance(task, FolderTask)
    assert (task.name, task.folder, task.validation_share) == ("t", Path("there"), 0.05)


def test_a_section_without_task_is_of_json_lines(tmp_path: Path) -> None:
    tasks = load(tmp_path, a=LINES, b={"task": "jsonl", **LINES}).tasks
    assert tasks["a"] == tasks["b"]
    assert isinstance(tasks["a"], JsonlSection)
    assert isinstance(tasks["a"].build("a"), JsonlTask)


def test_mmlu_takes_its_auxiliary_folder_and_no_other_task_does(tmp_path: Path) -> None:
    task = load(tmp_path, m={"task": "mmlu", "folder": "f", "auxiliary": "~/x"}).tasks["m"].build("m")
    assert isinstance(task, MMLU)
    assert task.auxiliary == Path("~/x").expanduser()
    found = faults(
        tmp_path, m={"task": "rte", "folder": "f", "auxiliary": "x", "shots": 2}, n={"task": "cb", "shot": 1}
    )
    known = "known: rate, on_bad_row, validation_share, task, folder, hub, revision"
    assert found == [
        f"tasks.m.auxiliary: unknown key; {known}; 'auxiliary' is an option of mmlu",
        f"tasks.m.shots: unknown key; {known}; 'shots' is an option of mmlu",
        f"tasks.n.shot: unknown key; {known}",
    ]


def test_an_option_of_many_tasks_names_the_first(tmp_path: Path) -> None:
    (fault,) = faults(tmp_path, j=LINES | {"folder": "f"})
    assert fault.endswith(f"; 'folder' is an option of alpaca, boolq, cb and {len(DATA_SETS) - 3} more")


def test_recipes_that_were_resolved_before_read_as_they_did(tmp_path: Path) -> None:
    """Options of mmlu stood, unset, in the sections of all data sets; they are read there, and no others' are."""
    unset = {"auxiliary": None, "shots": 0}
    assert load(tmp_path, t={"task": "rte", **unset}) == load(tmp_path, t={"task": "rte"})
    assert load(tmp_path, t={"task": "rte"}).resolved()["tasks"]["t"].items() >= unset.items()
    assert not load(tmp_path, t=LINES).resolved()["tasks"]["t"].keys() & unset.keys()
    (fault,) = faults(tmp_path, t=LINES | {"shots": 0})
    assert fault.startswith("tasks.t.shots: unknown key")


def test_all_faults_of_all_sections_come_at_once(tmp_path: Path) -> None:
    found = faults(
        tmp_path,
        a={"task": "gsm8", "folder": "f", "rate": -1},
        b={"task": "rte", "foldr": "f"},
        c={"task": "cb", "folder": "${NOT_SET_ANYWHERE}", "validation_share": 1, "on_bad_row": "skp"},
        d={"task": "rte", "folder": "f", "prompt": "{q}"},
        e={"task": 3},
        f={"task": None},
        g=LINES | {"folder": "f"},
        h="gsm8k",
    )
    wanted = [
        ("tasks.a: task must be one of jsonl, chat, alpaca, ", "got 'gsm8'; nearest: 'gsm8k'"),
        ("tasks.b.foldr: unknown key", "nearest: 'folder'"),
        ("tasks.c.folder", "NOT_SET_ANYWHERE is not set"),
        ("tasks.c.validation_share: must be less than 1", "got 1"),
        ("tasks.c.on_bad_row: must be one of fail, skip", "nearest: 'skip'"),
        ("tasks.d.prompt: unknown key", "known: "),
        ("tasks.e: task must be one of", "got 3"),
        ("tasks.f: task must be one of", "got None"),
        ("tasks.g.folder: unknown key", "known: "),
        ("tasks.h: ", "gsm8k"),
    ]
    for start, part in wanted:
        assert any(line.startswith(start) and part in line for line in found), (start, part, found)
    assert len(found) == len(wanted), found


def test_a_resolved_recipe_reads_back_and_the_hash_sees_the_tasks_options(tmp_path: Path) -> None:
    section = {"task": "mmlu", "folder": "f", "auxiliary": "x"}
    recipe = load(tmp_path, t=section, u=LINES)
    path = tmp_path / "resolved.yaml"
    path.write_text(yaml.safe_dump(recipe.resolved()))
    assert load_recipe(path).resolved() == recipe.resolved()
    others = [load(tmp_path, t=section | change, u=LINES) for change in ({"auxiliary": "y"}, {"validation_share": 0.1})]
    assert len({one.recipe_hash() for one in (recipe, *others)}) == 3


def test_the_schema_lists_the_tasks() -> None:
    schema = Recipe.model_json_schema()
    for name, section in built_in().items():
        task = schema["$defs"][section.__name__]["properties"]["task"]
        assert task["const"] == name
    sections = schema["properties"]["tasks"]["patternProperties"].popitem()[1]
    assert [entry["$ref"].rpartition("/")[2] for entry in sections["oneOf"]] == [
        section.__name__ for section in built_in().values()
    ]
    json.dumps(schema)


def test_a_built_in_task_is_from_the_hub_where_no_folder_is_named(tmp_path: Path) -> None:
    for kind in DATA_SETS:
        usual = DATA_SETS[kind].on_hub
        for more, id, revision in (({}, usual.id, None), ({"hub": "me/mine", "revision": "v1"}, "me/mine", "v1")):
            task = load(tmp_path, t={"task": kind, **more}).tasks["t"].build("t")
            assert isinstance(task, FolderTask)
            assert task.hub == HubSource("tasks.t.hub", id, usual.config, revision)
            task.check()  # nothing is downloaded


def test_a_section_of_conversations(tmp_path: Path) -> None:
    section = {
        "task": "chat",
        "train": ["a.jsonl", "b.jsonl"],
        "chat_template": "~/chat.jinja",
        "validation_share": 0.1,
    }
    task = load(tmp_path, t=section).tasks["t"].build("t")
    assert isinstance(task, ChatTask)
    assert (task.train, task.validation_share) == ([Path("a.jsonl"), Path("b.jsonl")], 0.1)
    assert task.chat_template == str(Path("~/chat.jinja").expanduser())
    text = "{% for m in messages %}${{ m.content }}{% endfor %}"
    task = load(tmp_path, t=section | {"chat_template": text}).tasks["t"].build("t")
    assert isinstance(task, ChatTask)
    assert task.chat_template == text


def test_options_without_an_effect_are_faults(tmp_path: Path) -> None:
    found = faults(
        tmp_path,
        a={"task": "rte", "folder": "f", "hub": "me/mine"},
        b={"task": "rte", "folder": "f", "revision": "v1"},
        c=LINES | {"config": "small"},
        d={"task": "chat", "train": "a.jsonl", "revision": "v1"},
        e={"task": "chat"},
        f={"task": "chat", "train": "a.jsonl", "prompt": "{q}"},
        g=LINES | {"labels": "x"},
        h=LINES | {"validation": "v.jsonl", "validation_share": 0.1},
    )
    wanted = [
        ("tasks.a: hub: 'me/mine' has no effect beside folder", ""),
        ("tasks.b: revision: 'v1' has no effect beside folder", ""),
        ("tasks.c: config: 'small' has no effect without hub", ""),
        ("tasks.d: revision: 'v1' has no effect without hub", ""),
        ("tasks.e: name at least 1 JSON-lines file with training rows in train, or a data set in hub", ""),
        ("tasks.f.prompt: unknown key", "known: "),
        ("tasks.g: labels: 'x' has no effect without answer", ""),
        ("tasks.h: validation_share: 0.1 has no effect beside the files in validation", ""),
    ]
    for start, part in wanted:
        assert any(line.startswith(start) and part in line for line in found), (start, part, found)
    assert len(found) == len(wanted), found


def test_every_field_of_a_task_is_described_once_per_section() -> None:
    schema = Recipe.model_json_schema()
    for section in built_in().values():
        texts = [field["description"] for field in schema["$defs"][section.__name__]["properties"].values()]
        assert len(set(texts)) == len(texts)
