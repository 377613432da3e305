from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from effort import examples
from multilora import InputError, MultiLoraConfig
from multilora.recipe import (
    FullMethod,
    LoraMethod,
    ModelSection,
    MultiLoraMethod,
    Recipe,
    TrainingSection,
)
from multilora.recipe.file import load_recipe
from multilora.tasks.data_sets.mmlu import MMLUSection
from multilora.tasks.jsonl import JsonlSection
from multilora.tasks.registry import built_in
from places import ROOT

MINIMAL = """
model: some/model
method: {name: multilora}
tasks:
  t: {train: t.jsonl, prompt: "{q}", completion: "{a}"}
training: {output: out, steps: 10}
"""


def load(tmp_path: Path, text: str = MINIMAL, *overrides: str) -> Recipe:
    path = tmp_path / "recipe.yaml"
    path.write_text(text, encoding="utf-8")
    return load_recipe(path, overrides)


def faults(tmp_path: Path, text: str = MINIMAL, *overrides: str) -> list[str]:
    with pytest.raises(InputError) as error:
        load(tmp_path, text, *overrides)
    return [line.strip() for line in str(error.value).splitlines()[1:]]


def test_a_minimal_recipe_gets_the_defaults(tmp_path: Path) -> None:
    recipe = load(tmp_path)
    assert recipe.model.path == "some/model"
    assert recipe.tasks["t"].train == [Path("t.jsonl")]
    assert recipe.tasks["t"].prompt == ["{q}"]
    assert recipe.training.learning_rate == 3e-4


def test_the_methods_defaults_are_those_of_the_config(tmp_path: Path) -> None:
    method = load(tmp_path).method
    assert isinstance(method, MultiLoraMethod)
    assert method.peft_config() == MultiLoraConfig(task_type="CAUSAL_LM")
    assert set(MultiLoraMethod.model_fields) - {"name"} <= set(MultiLoraConfig.__dataclass_fields__)


def test_loras_factor_is_one_unless_alpha_is_given(tmp_path: Path) -> None:
    method = load(tmp_path, MINIMAL.replace("multilora", "lora"), "method.r=24").method
    assert isinstance(method, LoraMethod)
    assert (method.peft_config().r, method.peft_config().lora_alpha) == (24, 24)


@pytest.mark.parametrize("text", ["1e-4", "1E-4", "0.0001", "1.0e-4", "'1e-4'"])
def test_numbers_as_people_write_them(tmp_path: Path, text: str) -> None:
    assert yaml.safe_load("1e-4") == "1e-4"  # the trap: YAML 1.1 takes it for text
    recipe = load(tmp_path, MINIMAL.replace("steps: 10", f"steps: 10, learning_rate: {text}"))
    assert recipe.training.learning_rate == 1e-4
    assert load(tmp_path, MINIMAL, f"training.learning_rate={text}").training.learning_rate == 1e-4


def test_all_faults_come_at_once(tmp_path: Path) -> None:
    text = """
model: {path: x, revison: main}
method: {name: multilora, r: 0, num_lora: 4, target_modules: 3, init_weights: ortogonal, scaling: vektor}
tasks:
  a: {train: "${NOT_SET_ANYWHERE}/a.jsonl", prompt: "{q", completion: "{a:b}", rate: -1, on_bad_row: skp}
  b: {train: [], promt: x}
training: {learning_rate: fast, steps: 1.5, batch_size: true, precision: fp16, report_to: [tensorbord]}
trainin: 1
"""
    found = faults(tmp_path, text, "training.outpt=x", "method.r.x=1", "nonsense")
    wanted = [
        ("--set method.r.x=1", "not a section"),
        ("--set nonsense", "write key=value"),
        ("model.revison: unknown key", "nearest: 'revision'"),
        ("method.r: must be greater than or equal to 1", "got 0"),
        ("method.num_lora: unknown key", "'num_loras'"),
        ("method.target_modules: must be", "got 3"),
        ("method.init_weights: must be", "got 'ortogonal'; nearest: 'orthogonal'"),
        ("method.scaling: must be one of vector, scalar, none", "got 'vektor'; nearest: 'vector'"),
        ("tasks.a.train", "the environment variable NOT_SET_ANYWHERE is not set"),
        ("tasks.a.prompt", "single '{'"),
        ("tasks.a.completion", "{a:b} is not a plain field name"),
        ("tasks.a.rate: must be greater than 0", "got -1"),
        ("tasks.a.on_bad_row: must be one of fail, skip", "nearest: 'skip'"),
        ("tasks.b.train", "at least 1"),
        ("tasks.b.prompt: missing", ""),
        ("tasks.b.promt: unknown key", "nearest: 'prompt'"),
        ("training.output: missing", "The run folder"),
        ("training.outpt: unknown key", "nearest: 'output'"),
        ("training.learning_rate: must be a valid number", "got 'fast'"),
        ("training.steps: must be a valid integer", "got 1.5"),
        ("training.batch_size: must be a number", "got True"),
        ("training.precision: must be one of bf16, fp32", "got 'fp16'"),
        ("training.report_to[0]: unknown tracker 'tensorbord'", "nearest: 'tensorboard'"),
        ("trainin: unknown key", "nearest: 'training'"),
    ]
    for start, part in wanted:
        assert any(line.startswith(start) and part in line for line in found), (start, part, found)
    assert len(found) == len(wanted)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (("method: {name: multilora}", "method: {name: multlora}"), "got 'multlora'; nearest: 'multilora'"),
        (("method: {name: multilora}", "method: {r: 3}"), "name must be one of multilora, lora, full"),
        (("method: {name: multilora}", "method: multilora"), "method: "),
        (("method: {name: multilora}", "method: {name: full, r: 3}"), "method.r: unknown key; known: name"),
        (("method: {name: multilora}", "method: {name: multilora, init_weights: lora}"), "needs scaling='none'"),
        (("method: {name: multilora}", "method: {name: multilora, r: true}"), "method.r: must be a number; got True"),
        (("steps: 10", "steps: 10, epochs: 1"), "either steps or epochs"),
        (("steps: 10", "seed: 1"), "either steps or epochs"),
        (("steps: 10", "steps: 10, learning_rate: .inf"), "finite"),
        (("steps: 10", "steps: 10, seed: -1"), "training.seed"),
        (("  t: {train", "  'a b': {train"), "pattern"),
        (("training: {output: out, steps: 10}", "training: none"), "training"),
        (("name: multilora", "name: lora"), None),
    ],
)
def test_single_faults(tmp_path: Path, change: tuple[str, str], fault: str | None) -> None:
    text = MINIMAL.replace(*change)
    assert text != MINIMAL
    if fault is None:
        load(tmp_path, text)
        return
    found = faults(tmp_path, text)
    assert len(found) == 1, found
    assert fault in found[0]


def test_a_ratio_for_a_scale_that_is_not_there_is_refused(tmp_path: Path) -> None:
    for method in ("{name: lora}", "{name: full}", "{name: multilora, scaling: none}"):
        (fault,) = faults(tmp_path, MINIMAL.replace("{name: multilora}", method), "training.scaling_lr_ratio=2")
        assert "training.scaling_lr_ratio: 2.0 has no effect" in fault


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("a: [1", "line 1, column 6"),
        ("a: 1\nb: {x: 1,\n  x: 2}", "line 3: the key 'x' stands in line 2 already"),
        ("1: x", "line 1: the key 1 is not text"),
        ("yes: x", "the key True is not text"),
        ("- a", "a recipe is a YAML mapping with the keys model, method, tasks, "),
        ("", "a recipe is a YAML mapping"),
        ("a: !!python/object/apply:os.getcwd []", "could not determine a constructor"),
        ("a: \x00", "special characters are not allowed"),
    ],
)
def test_what_is_not_a_yaml_recipe(tmp_path: Path, text: str, part: str) -> None:
    with pytest.raises(InputError) as error:
        load(tmp_path, text)
    assert part in str(error.value)
    assert "recipe.yaml" in str(error.value)


def test_a_missing_file_names_the_nearest(tmp_path: Path) -> None:
    load(tmp_path)
    with pytest.raises(InputError, match=r"recipes\.yaml.*No such file.*nearest: 'recipe\.yaml'"):
        load_recipe(tmp_path / "recipes.yaml")


def test_merge_keys_work_and_may_be_overridden(tmp_path: Path) -> None:
    other = "  s: &s {train: s.jsonl, prompt: p, completion: c}\n"
    text = MINIMAL.replace("  t: {train: t.jsonl", other + "  t: {<<: *s, train: t.jsonl")
    assert load(tmp_path, text).tasks["t"].train == [Path("t.jsonl")]


def test_overrides_reach_every_section(tmp_path: Path) -> None:
    recipe = load(
        tmp_path,
        MINIMAL,
        "training.steps=7",
        "tasks.t.rate=2",
        "tasks.u={train: u.jsonl, prompt: p, completion: c}",
        "model.trust_remote_code=true",
        "method.target_modules=[q_proj, v_proj]",
        "training.report_to=[tensorboard]",
    )
    assert recipe.training.steps == 7
    assert recipe.tasks["t"].rate == 2
    assert list(recipe.tasks) == ["t", "u"]
    assert (recipe.model.path, recipe.model.trust_remote_code) == ("some/model", True)
    assert isinstance(recipe.method, MultiLoraMethod)
    assert recipe.method.target_modules == ["q_proj", "v_proj"]
    assert load(tmp_path, MINIMAL, "model=other").model.path == "other"


def test_environment_variables_and_home_in_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THERE", "/there")
    monkeypatch.setenv("HOME", "/somewhere/me")
    overrides = ("model=${THERE}/m", "tasks.t.train=[~/a, '${THERE}/b']", "training.output=${THERE}/o")
    recipe = load(tmp_path, MINIMAL, *overrides)
    assert recipe.model.path == "/there/m"
    assert recipe.tasks["t"].train == [Path("/somewhere/me/a"), Path("/there/b")]
    assert recipe.training.output == Path("/there/o")
    assert load(tmp_path, MINIMAL, "tasks.t.prompt=$HOME {{x}}").tasks["t"].prompt == ["$HOME {{x}}"]  # no path


def test_the_resolved_recipe_reads_back_as_itself(tmp_path: Path) -> None:
    for method in ("{name: multilora, rank_pattern: {q_proj: 2}}", "{name: lora}", "{name: full}"):
        recipe = load(tmp_path, MINIMAL.replace("{name: multilora}", method))
        again = load(tmp_path, yaml.safe_dump(recipe.resolved()))
        assert again.resolved() == recipe.resolved()
        assert again.recipe_hash() == recipe.recipe_hash()


def test_the_hash_is_of_what_determines_the_weights(tmp_path: Path) -> None:
    base = load(tmp_path).recipe_hash()
    for same in ("output=x", "save_every=3", "keep_checkpoints=9", "log_every=1", "report_to=[tensorboard]"):
        assert load(tmp_path, MINIMAL, f"training.{same}").recipe_hash() == base
    others = [
        load(tmp_path, MINIMAL, override).recipe_hash()
        for override in ("training.seed=1", "training.learning_rate=1", "method.r=4", "tasks.t.rate=2", "model=m")
    ]
    assert len({base, *others}) == 6


PLACES = [
    *(f"training.{name}" for name in TrainingSection.model_fields),
    *(f"method.{name}" for name in MultiLoraMethod.model_fields),
    *(f"tasks.t.{name}" for name in JsonlSection.model_fields | MMLUSection.model_fields),
    *("model", "method", "tasks", "tasks.t", "training", "other"),
]
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=examples(200), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(PLACES), VALUES)
def test_any_value_anywhere_is_accepted_or_refused_with_its_place(tmp_path: Path, place: str, value: Any) -> None:
    data = yaml.safe_load(MINIMAL)
    node, keys = data, place.split(".")
    for key in keys[:-1]:
        node = node[key]
    node[keys[-1]] = value
    message = ""
    try:
        load(tmp_path, yaml.safe_dump(data, allow_unicode=True))
    except InputError as error:
        message = str(error)
    assert not message or keys[0] in message or "the key" in message


def test_every_option_has_a_text_and_the_schema_shows_it() -> None:
    def check(section: type[BaseModel]) -> None:
        for name, field in section.model_fields.items():
            assert field.description, (section, name)

    for section in (
        Recipe,
        ModelSection,
        *built_in().values(),
        TrainingSection,
        MultiLoraMethod,
        LoraMethod,
        FullMethod,
    ):
        check(section)
    schema = Recipe.model_json_schema()
    for definition in schema["$defs"].values():
        assert all("description" in entry for entry in definition["properties"].values()), definition
    help_text = MultiLoraConfig.__dataclass_fields__["num_loras"].metadata["help"]
    assert schema["$defs"]["MultiLoraMethod"]["properties"]["num_loras"]["description"] == help_text
    json.dumps(schema)


# accelerate/ holds files for accelerate.
RECIPES = sorted(path for path in (ROOT / "recipes").rglob("*.yaml") if path.parent.name != "accelerate")


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.name)
def test_every_recipe_of_the_project_loads(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for text in (file.read_text(encoding="utf-8") for file in RECIPES):
        for name in set(re.findall(r"\$\{(\w+)\}", text)):
            monkeypatch.setenv(name, "/somewhere")
    load_recipe(path)
