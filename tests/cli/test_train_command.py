"""`multilora train` and `multilora schema`: what the terminal shows, and exit codes."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

from console import Run
from multilora.training.metrics import MetricsCallback
from tiny_run import make_recipe


def test_a_run_from_recipe_to_the_next_command(run: Run, tmp_path: Path) -> None:
    recipe = make_recipe(tmp_path, steps=6)
    code, out, err = run("train", recipe, "--set", "training.log_every=2", "--set", "tasks.b.rate=2")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0] == "reading a, b"
    assert lines[1].startswith("training ")
    assert lines[1].endswith(" parameters for 6 steps")
    assert [line.split()[1] for line in lines[2:5]] == ["2/6", "4/6", "6/6"]
    assert lines[5] == str(tmp_path / "run")
    assert "try: multilora export" in lines[-1]
    assert "\x1b" not in out

    code, out, err = run("train", recipe)
    assert code == 2
    assert "resume it (--resume" in err

    code, out, _ = run("train", recipe, "--set", "training.log_every=2", "--set", "tasks.b.rate=2", "--resume")
    assert code == 0
    assert "finished before; nothing to do" in out


def test_the_suggested_export_works(run: Run, tmp_path: Path) -> None:
    _, out, _ = run("train", make_recipe(tmp_path, steps=2))
    command = shlex.split(out.splitlines()[-1].partition("try: ")[2])
    assert command[0] == "multilora"
    assert run(*command[1:])[0] == 0


def test_bad_input_is_one_message_and_exit_code_2(run: Run, tmp_path: Path) -> None:
    recipe = make_recipe(tmp_path)
    code, out, err = run("train", recipe, "--set", "training.step=3", "--set", "method.r=0")
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert "training.step: unknown key; nearest: 'steps'" in err
    assert "method.r: must be greater than or equal to 1; got 0" in err
    assert "Traceback" not in err
    assert not (tmp_path / "run").exists()


def test_an_interrupt_says_how_to_go_on(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(MetricsCallback, "on_log", interrupt)
    code, _, err = run("train", make_recipe(tmp_path))
    assert code == 130
    assert "--resume continues from the last checkpoint" in err


def test_the_schema_is_json_for_editors(run: Run) -> None:
    code, out, _ = run("schema")
    assert code == 0
    schema = json.loads(out)
    assert schema["anyOf"] == [{"required": ["model", "method", "tasks", "training"]}, {"required": ["extends"]}]
    assert schema["additionalProperties"] is False
