from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from peft import PeftModel
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer
from trl import SFTTrainer

from multilora import InputError
from multilora.recipe.file import load_recipe
from multilora.terminal import Silent
from multilora.training.batches import TASK_IDS
from multilora.training.run import RunResult, train
from multilora.training.sft import SftTrainer
from tiny_run import make_model, make_recipe, read_lines

TIMES = {"seconds", "tokens_per_second"}


class Told(Silent):
    """Remembers what it was told, and interrupts at a step."""

    def __init__(self, interrupt_at: int | None = None) -> None:
        self.notes: list[str] = []
        self.steps: list[int] = []
        self._interrupt_at = interrupt_at

    def note(self, text: str) -> None:
        self.notes.append(text)

    def step(self, step: int, metrics: Mapping[str, float] | None) -> None:
        self.steps.append(step)
        if step == self._interrupt_at:
            raise KeyboardInterrupt


def run(path: Path, *overrides: str, **options: Any) -> RunResult:
    return train(load_recipe(path, overrides), **options)


def weights(result: RunResult) -> dict[str, Tensor]:
    name = "adapter_model.safetensors" if result.weights.name == "adapter" else "model.safetensors"
    return load_file(result.weights / name)


def assert_same(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> None:
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name


def without_times(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: value for key, value in line.items() if key not in TIMES} for line in lines]


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, RunResult]:
    """A recipe and its uninterrupted run; not to be changed."""
    folder = tmp_path_factory.mktemp("once")
    path = make_recipe(folder)
    return path, run(path)


@pytest.fixture
def copied(once: tuple[Path, RunResult], tmp_path: Path) -> Path:
    """A recipe with the same model and data as `once`, and an output of its own."""
    recipe = yaml.safe_load(once[0].read_text())
    recipe["training"]["output"] = str(tmp_path / "run")
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe, sort_keys=False))
    return path


# What a run leaves ------------------------------------------------------------------------------------------------


def test_the_run_folder_is_complete(once: tuple[Path, RunResult]) -> None:
    path, result = once
    names = sorted(entry.name for entry in result.folder.iterdir())
    assert names == ["adapter", "checkpoints", "data.json", "metrics.jsonl", "recipe.yaml", "results.json"]
    assert load_recipe(result.folder / "recipe.yaml").resolved() == load_recipe(path).resolved()
    assert [entry.name for entry in sorted((result.folder / "checkpoints").iterdir())] == [
        "checkpoint-12",
        "checkpoint-8",
    ]
    assert sorted(entry.name for entry in result.weights.iterdir()) == [
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    assert not list(result.folder.rglob("training_args.bin"))
    assert sorted(entry.name for entry in result.folder.parent.iterdir() if entry.name.startswith(".")) == []


def test_the_results_hold_every_figure(once: tuple[Path, RunResult]) -> None:
    path, result = once
    results = json.loads((result.folder / "results.json").read_text())
    assert (result.folder / "results.json").read_text() == result.results.text()
    lines = read_lines(result.folder / "metrics.jsonl")
    assert results["final_loss"] == lines[-1]["loss"]
    assert results["recipe_hash"] == load_recipe(path).recipe_hash()
    assert results["steps"] == 12
    assert results["tokens"] == lines[-1]["tokens"] > 12 * 4
    assert results["epochs"] == pytest.approx(12 * 4 / 70)
    assert results["parameters"]["trainable"] == sum(tensor.numel() for tensor in weights(result).values())
    assert results["peak_memory_bytes"] > 50e6
    assert results["tasks"]["a"]["kept"] == 40
    assert {"python", "torch", "transformers", "peft", "trl", "multilora"} <= results["versions"].keys()
    assert results["seconds"] == lines[-1]["seconds"] > 0


def test_metrics_have_each_logged_step_once_and_the_checkpoints_steps(once: tuple[Path, RunResult]) -> None:
    lines = read_lines(once[1].folder / "metrics.jsonl")
    assert [line["step"] for line in lines] == [3, 4, 6, 8, 9, 12]
    for line in lines:
        assert {"loss", "learning_rate", "grad_norm", "tokens", "tokens_per_second", "epoch", "seconds"} <= line.keys()


def test_the_adapter_loads_with_peft_and_has_learnt(once: tuple[Path, RunResult]) -> None:
    path, result = once
    base = AutoModelForCausalLM.from_pretrained(path.parent / "model")
    tokenizer = AutoTokenizer.from_pretrained(path.parent / "model")
    ids = tokenizer(["a one two:", "b three four five:"][:1], return_tensors="pt")["input_ids"]
    before = base(input_ids=ids).logits
    adapted = PeftModel.from_pretrained(base, str(result.weights)).eval()
    assert (adapted(input_ids=ids).logits - before).abs().max() > 0.01
    assert all(tensor.abs().max() > 0 for name, tensor in weights(result).items() if "scaling" in name)


def test_an_optimizer_state_loads_as_weights_only(once: tuple[Path, RunResult]) -> None:
    checkpoint = once[1].folder / "checkpoints" / "checkpoint-12"
    for name in ("optimizer.pt", "scheduler.pt"):
        torch.load(checkpoint / name, weights_only=True)


# Laws -----------------------------------------------------------------------------------------------------------


def test_the_same_recipe_gives_the_same_bits(once: tuple[Path, RunResult], copied: Path) -> None:
    again = run(copied)
    assert_same(weights(once[1]), weights(again))
    assert without_times(read_lines(again.folder / "metrics.jsonl")) == without_times(
        read_lines(once[1].folder / "metrics.jsonl")
    )


def test_another_seed_gives_other_weights(once: tuple[Path, RunResult], copied: Path) -> None:
    other = weights(run(copied, "training.seed=1"))
    assert any(not torch.equal(tensor, other[name]) for name, tensor in weights(once[1]).items())


def test_logging_and_saving_change_nothing(once: tuple[Path, RunResult], copied: Path) -> None:
    other = run(copied, "training.log_every=1", "training.save_every=5", "training.keep_checkpoints=1")
    assert_same(weights(once[1]), weights(other))
    assert [entry.name for entry in (other.folder / "checkpoints").iterdir()] == ["checkpoint-12"]


@pytest.mark.parametrize("step", [2, 4, 7, 11])
def test_interrupted_and_resumed_is_uninterrupted(once: tuple[Path, RunResult], copied: Path, step: int) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(copied, progress=Told(interrupt_at=step))
    told = Told()
    resumed = run(copied, resume=True, progress=told)
    first = step // 4 * 4 if step % 4 else step - 4  # a checkpoint at step 4 is written after step 4 is told
    assert told.steps == list(range(first + 1, 13))
    assert any("resuming from" in note or "from the beginning" in note for note in told.notes)
    assert_same(weights(once[1]), weights(resumed))
    assert without_times(read_lines(resumed.folder / "metrics.jsonl")) == without_times(
        read_lines(once[1].folder / "metrics.jsonl")
    )


@pytest.mark.parametrize("step", [3, 8])
def test_a_packed_run_interrupted_and_resumed_is_uninterrupted(copied: Path, step: int) -> None:
    packed = ("training.packing=true", "training.batch_size=1", "training.gradient_accumulation=2")
    whole = run(copied, *packed, f"training.output={copied.parent / 'whole'}")
    with pytest.raises(KeyboardInterrupt):
        run(copied, *packed, progress=Told(interrupt_at=step))
    resumed = run(copied, *packed, resume=True)
    assert_same(weights(whole), weights(resumed))
    assert without_times(read_lines(resumed.folder / "metrics.jsonl")) == without_times(
        read_lines(whole.folder / "metrics.jsonl")
    )


def test_epochs_of_packed_rows_are_passes_over_the_examples(copied: Path) -> None:
    recipe = yaml.safe_load(copied.read_text())
    del recipe["training"]["steps"]
    copied.write_text(yaml.safe_dump(recipe))
    result = run(copied, "training.epochs=2", "training.packing=true", "training.batch_size=1")
    assert 2 <= result.results.epochs < 2.2
    assert result.results.tokens > 0.9 * result.results.steps * 128


@pytest.mark.parametrize("method", ["full", "lora"])
def test_other_methods_resume_exactly_too(once: tuple[Path, RunResult], copied: Path, method: str) -> None:
    shorter = ("training.steps=6", "training.learning_rate=0.001")
    more = {"lora": {"lora_dropout": 0.2, "r": 4}, "full": {}}[method]
    recipe = yaml.safe_load(copied.read_text()) | {"method": {"name": method, **more}}
    copied.write_text(yaml.safe_dump(recipe))
    whole = run(copied, *shorter, f"training.output={copied.parent / 'whole'}")
    with pytest.raises(KeyboardInterrupt):
        run(copied, *shorter, progress=Told(interrupt_at=5))
    assert_same(weights(whole), weights(run(copied, *shorter, resume=True)))


def first_batch_loss(path: Path, monkeypatch: pytest.MonkeyPatch) -> float:
    """The base model's completion-only loss on the first batch that training sees, computed from the text."""
    seen: list[dict[str, Tensor]] = []
    compute = SftTrainer.compute_loss

    def remembering(self: Any, model: Any, inputs: dict[str, Tensor], *args: Any, **kwargs: Any) -> Any:
        assert TASK_IDS in inputs
        seen.append({name: tensor.clone() for name, tensor in inputs.items()})
        return compute(self, model, inputs, *args, **kwargs)

    monkeypatch.setattr(SftTrainer, "compute_loss", remembering)
    run(path, "training.steps=1", "training.output=" + str(path.parent / "one"))
    base = AutoModelForCausalLM.from_pretrained(path.parent / "model")
    inputs = {name: seen[0][name] for name in ("input_ids", "attention_mask", "labels")}
    with torch.no_grad():
        return float(base(**inputs).loss)


def test_the_first_loss_is_the_base_models(once: tuple[Path, RunResult], monkeypatch: pytest.MonkeyPatch) -> None:
    path = once[0]
    expected = first_batch_loss(path, monkeypatch)
    (line,) = read_lines(path.parent / "one" / "metrics.jsonl")
    assert line["loss"] == pytest.approx(expected, rel=1e-6)


def test_accumulation_is_a_larger_batch(copied: Path) -> None:
    plain = {"name": "multilora", "r": 4, "num_loras": 2}  # without dropout, whose masks depend on the batch's shape
    recipe = yaml.safe_load(copied.read_text()) | {"method": plain}
    copied.write_text(yaml.safe_dump(recipe))
    one = weights(run(copied, "training.output=" + str(copied.parent / "one")))
    two = weights(run(copied, "training.batch_size=2", "training.gradient_accumulation=2"))
    for name, tensor in one.items():
        assert torch.allclose(tensor, two[name], atol=1e-4), name


def test_the_scales_first_step_is_its_own_learning_rate(copied: Path) -> None:
    overrides = ("training.steps=1", "training.warmup=0", "training.weight_decay=0.1", "training.scaling_lr_ratio=5")
    trained = weights(run(copied, *overrides))
    for name, tensor in trained.items():
        if "scaling" in name:  # Adam's first step is the learning rate in the direction of the gradient's sign
            assert tensor.abs().max() == pytest.approx(0.05, rel=1e-3)


def test_epochs_are_passes_over_the_rows(copied: Path) -> None:
    recipe = yaml.safe_load(copied.read_text())
    del recipe["training"]["steps"]
    copied.write_text(yaml.safe_dump(recipe))
    result = run(copied, "training.epochs=1", "training.batch_size=8")
    assert result.results.steps == 9  # 70 rows by 8
    assert result.results.epochs == pytest.approx(72 / 70)


@pytest.mark.parametrize("method", ["multilora", "lora", "full"])
def test_bf16_trains_every_method_with_fp32_weights(copied: Path, method: str) -> None:
    recipe = yaml.safe_load(copied.read_text()) | {"method": {"name": method}}
    copied.write_text(yaml.safe_dump(recipe))
    result = run(copied, "training.precision=bf16", "training.steps=3", "training.learning_rate=0.001")
    assert all(tensor.dtype == torch.float32 for tensor in weights(result).values())
    assert result.results.final_loss > 0


def test_gradient_checkpointing_changes_nothing_but_memory(once: tuple[Path, RunResult], copied: Path) -> None:
    other = weights(run(copied, "training.gradient_checkpointing=true"))
    for name, tensor in weights(once[1]).items():
        assert torch.allclose(tensor, other[name], atol=1e-6), name


def test_a_whole_model_can_be_loaded_as_it_was_before(copied: Path) -> None:
    recipe = yaml.safe_load(copied.read_text()) | {"method": {"name": "full"}}
    copied.write_text(yaml.safe_dump(recipe))
    result = run(copied, "training.steps=2")
    assert result.weights.name == "model"
    model = AutoModelForCausalLM.from_pretrained(result.weights)
    assert model.config.use_cache
    assert AutoTokenizer.from_pretrained(result.weights).eos_token == "</s>"


def test_modules_to_save_are_trained_and_saved(copied: Path) -> None:
    result = run(copied, "method.modules_to_save=[lm_head]", "training.steps=2")
    base = load_file(Path(load_recipe(copied).model.path) / "model.safetensors")
    (head,) = [tensor for name, tensor in weights(result).items() if "lm_head" in name]
    assert not torch.equal(head, base["lm_head.weight"])


def test_trackers_get_the_metrics(copied: Path) -> None:
    pytest.importorskip("tensorboard", reason="the optional tensorboard is not installed")
    result = run(copied, "training.report_to=[tensorboard]", "training.steps=3")
    assert list(result.folder.rglob("events.out.tfevents.*"))


def test_nobody_is_told_that_training_runs() -> None:
    assert hasattr(SFTTrainer, "_send_telemetry")  # if TRL renames it, ours is no override any more
    assert SftTrainer._send_telemetry is not SFTTrainer._send_telemetry


# The output folder ------------------------------------------------------------------------------------------------


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_run_is_not_written_over_without_being_asked(once: tuple[Path, RunResult]) -> None:
    before = snapshot(once[1].folder)
    with pytest.raises(
        InputError, match=r"holds a run already; resume it \(--resume, resume=True\), overwrite it \(--overwrite"
    ):
        run(once[0])
    assert snapshot(once[1].folder) == before


def test_a_finished_run_is_left_as_it_is_by_resume(once: tuple[Path, RunResult]) -> None:
    before = snapshot(once[1].folder)
    result = run(once[0], resume=True)
    assert result.finished_before
    assert result.results == once[1].results
    assert snapshot(once[1].folder) == before


@pytest.mark.parametrize(
    "override",
    ["tasks.a.train=/nowhere.jsonl", "tasks.a.prompt={qq}", "method.target_modules=[q_porj]", "model=/nowhere"],
)
@pytest.mark.parametrize("existing", [True, False])
def test_a_run_that_cannot_begin_changes_nothing(copied: Path, override: str, existing: bool) -> None:
    folder = copied.parent / "run"
    if existing:
        run(copied, "training.steps=1")
    before = snapshot(copied.parent)
    with pytest.raises(InputError):
        run(copied, override, overwrite=existing)
    assert snapshot(copied.parent) == before
    assert folder.exists() == existing


def test_overwrite_replaces_the_whole_run(copied: Path) -> None:
    run(copied, "training.steps=4")
    assert not run(copied, "training.steps=3", overwrite=True).finished_before
    folder = copied.parent / "run"
    assert [entry.name for entry in (folder / "checkpoints").iterdir()] == ["checkpoint-3"]
    assert [line["step"] for line in read_lines(folder / "metrics.jsonl")] == [3]
    assert sorted(entry.name for entry in copied.parent.iterdir()) == ["recipe.yaml", "run"]


def test_what_is_no_run_is_never_overwritten(copied: Path) -> None:
    (copied.parent / "run").mkdir()
    (copied.parent / "run" / "thesis.tex").write_text("x")
    for options in ({"overwrite": True}, {"resume": True}, {}):
        with pytest.raises(InputError, match=r"not empty and holds no run"):
            run(copied, **options)
    with pytest.raises(InputError, match="is a file"):
        run(copied, f"training.output={copied}")
    with pytest.raises(InputError, match="exclude each other"):
        run(copied, resume=True, overwrite=True)
    assert (copied.parent / "run" / "thesis.tex").read_text() == "x"


def test_an_empty_folder_and_resume_before_the_first_run_are_fine(copied: Path) -> None:
    (copied.parent / "run").mkdir()
    assert run(copied, "training.steps=1", resume=True).results.steps == 1


def test_resuming_with_another_recipe_names_what_differs(copied: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(copied, progress=Told(interrupt_at=5))
    before = snapshot(copied.parent)
    with pytest.raises(InputError, match=r"method\.r 4 and 8; training\.seed 0 and 3\. Change") as error:
        run(copied, "method.r=8", "training.seed=3", "training.save_every=2", resume=True)
    assert "save_every" not in str(error.value)
    assert snapshot(copied.parent) == before


def test_resuming_with_other_data_names_the_task(copied: Path) -> None:
    data = copied.parent / "a.jsonl"
    shutil.copy(load_recipe(copied).tasks["a"].train[0], data)
    overrides = (f"tasks.a.train={data}",)
    with pytest.raises(KeyboardInterrupt):
        run(copied, *overrides, progress=Told(interrupt_at=5))
    data.write_text(data.read_text().replace("one", "two"))
    with pytest.raises(InputError, match=r"the rows of a have changed since the run"):
        run(copied, *overrides, resume=True)


# What stops a run -------------------------------------------------------------------------------------------------


def test_a_loss_that_is_no_number_stops_with_step_and_tasks_and_keeps_the_checkpoint(copied: Path) -> None:
    overrides = ("training.learning_rate=1e30", "training.warmup=0", "training.save_every=1")
    with pytest.raises(InputError) as error:
        run(copied, *overrides)
    message = str(error.value)
    found = re.search(r"the loss is nan at step (\d+); tasks in the batch: ", message)
    assert found is not None
    last = f"checkpoint-{int(found[1]) - 1}"
    assert "a (" in message
    assert "tokens)" in message
    folder = copied.parent / "run"
    assert str(folder / "checkpoints" / last) in message
    assert (folder / "checkpoints" / last / "adapter_model.safetensors").is_file()
    assert not (folder / "adapter").exists()
    assert not (folder / "results.json").exists()


def test_a_gradient_that_is_no_number_stops_before_the_weights_change(
    copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    norms = iter([1.0, 1.0, float("inf")])
    monkeypatch.setattr(Trainer, "_get_grad_norm", lambda self, model, grad_norm=None: torch.tensor(next(norms)))
    with pytest.raises(InputError, match=r"the gradient's norm is inf at step 3; tasks in the batch: [ab] \("):
        run(copied, "training.save_every=2")


def test_ids_beyond_the_model_and_rows_beyond_its_positions(copied: Path) -> None:
    small = make_model(copied.parent / "small", vocab_size=50)
    with pytest.raises(InputError, match=r"the tokenizer gives token id .* embeddings for 50 tokens"):
        run(copied, f"model={small}")
    short = make_model(copied.parent / "short", max_position_embeddings=4)
    with pytest.raises(InputError, match=r"training\.max_length: the longest example .* set training\.max_length to 4"):
        run(copied, f"model={short}")


def test_a_rate_too_small_for_a_row_is_refused(copied: Path) -> None:
    with pytest.raises(InputError, match=r"tasks\.b\.rate: its share of an epoch of 70 rows is less than one row"):
        run(copied, "tasks.b.rate=1e-6")


# Several processes (tests/end_to_end/test_processes.py has real ones) ------------------------------------------------


def test_several_processes_without_torchrun_are_refused(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(InputError, match=r"WORLD_SIZE is 2, and RANK, LOCAL_RANK.*torchrun --nproc_per_node 2"):
        run(copied)


def test_several_gpus_want_a_choice(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(InputError, match=r"2 GPUs are visible.*CUDA_VISIBLE_DEVICES=0.*--nproc_per_node 2"):
        run(copied)


def test_a_resumed_run_may_deal_the_same_rows_out_otherwise(copied: Path) -> None:
    plain = {"name": "multilora", "r": 4, "num_loras": 2}  # without dropout, whose masks depend on the batch's shape
    recipe = yaml.safe_load(copied.read_text()) | {"method": plain}
    copied.write_text(yaml.safe_dump(recipe))
    whole = run(copied, f"training.output={copied.parent / 'whole'}")
    with pytest.raises(KeyboardInterrupt):
        run(copied, progress=Told(interrupt_at=5))
    told = Told()
    again = run(copied, "training.batch_size=1", "training.gradient_accumulation=4", resume=True, progress=told)
    assert any("begun with batch_size 4, gradient_accumulation 1 and 1 process:" in note for note in told.notes)
    for name, tensor in weights(whole).items():
        assert torch.allclose(tensor, weights(again)[name], atol=1e-4), name


def test_a_resumed_run_may_not_have_other_steps(copied: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(copied, progress=Told(interrupt_at=5))
    before = snapshot(copied.parent)
    with pytest.raises(InputError, match=r"steps have 4 rows \(batch_size 4, .* 1 process\); now they would have 8 "):
        run(copied, "training.batch_size=8", resume=True)
    assert snapshot(copied.parent) == before


def test_rows_that_leak_stop_a_run_or_are_left_out(copied: Path, tmp_path: Path) -> None:
    recipe = yaml.safe_load(copied.read_text())
    leaking = [json.loads(line) for line in Path(recipe["tasks"]["a"]["train"]).read_text().splitlines()][:3]
    test = tmp_path / "test.jsonl"
    test.write_text("".join(json.dumps(row) + "\n" for row in leaking))
    with pytest.raises(InputError, match=r"training rows that equal evaluation rows: [345]"):
        run(copied, f"tasks.a.test={test}")
    assert not (tmp_path / "run").exists()
    told = Told()
    result = run(copied, f"tasks.a.test={test}", "mixture.on_leak=drop", progress=told)
    leaked = result.results.tasks["a"].leaked
    assert leaked >= 3
    assert result.results.tasks["a"].rows == 40 - leaked
    assert json.loads((result.folder / "data.json").read_text())["tasks"]["a"]["leaked"] == leaked
    assert any(note.startswith(f"a: {leaked} rows left out of training: a.jsonl") for note in told.notes)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda run: (run / "data.json").unlink(), "it has no data.json"),
        (lambda run: (run / "data.json").write_text("{"), "is damaged"),
        (lambda run: (run / "recipe.yaml").write_text("a: [1"), "is no recipe that this version"),
        (lambda run: shutil.rmtree(run / "adapter"), "without its adapter/"),
    ],
)
def test_a_damaged_run_is_named(
    once: tuple[Path, RunResult], copied: Path, tmp_path: Path, damage: Any, message: str
) -> None:
    shutil.copytree(once[1].folder, tmp_path / "run")
    damage(tmp_path / "run")
    with pytest.raises(InputError, match=message):
        run(copied, resume=True)


def test_a_folder_with_a_recipe_alone_is_no_run_to_overwrite(copied: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    shutil.copy(copied, tmp_path / "run" / "recipe.yaml")
    (tmp_path / "run" / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="holds no run"):
        run(copied, overwrite=True)
    assert (tmp_path / "run" / "notes.txt").read_text() == "mine"
