"""A merge killed by SIGKILL and run again leaves the same bytes as one that nothing disturbed."""

from __future__ import annotations

import shutil
import signal
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
import torch

import children
from disk_events import Moment, die_at, events_below
from effort import seeded, thorough
from merging.merging_cases import contents, multilora, save_adapter_of, save_llama
from multilora.errors import InputError
from multilora.merging import merge as merge_module
from multilora.merging.files import OutputFile
from multilora.merging.merge import merge_adapters
from multilora.merging.options import MergeOptions
from multilora.storage.folders import aside_of

# A moment that a kill from outside would hardly hit, and whether the output folder is there after it.
MOMENTS = {
    "before the first shard": (Moment("*.safetensors.part", "write"), False),
    "a shard without its name": (Moment("*.safetensors.part", "rename"), False),
    "a shard without its record": (Moment("..merge_progress.json.incomplete", "write"), False),
    "before the folder gets its name": (Moment("out", "rename"), False),
    "between the old folder and the new one": (Moment(".out.incomplete", "rename"), False),
    "before the record is removed": (Moment("out/.merge_progress.json", "remove"), True),
}
DTYPE = MergeOptions(dtype="bfloat16")
AGAIN = MergeOptions(dtype="bfloat16", overwrite=True)


# In the child ------------------------------------------------------------------------------------------------------


def _merge(base: Path, adapter: Path, out: Path, options: MergeOptions, began: Path, moment: Moment | None) -> None:
    torch.set_num_threads(1)
    if moment is not None:
        die_at(moment)
    began.touch()
    merge_adapters(base, [adapter], out, options)


# In the parent -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base model of many shards, an adapter, and their undisturbed merge."""
    folder = tmp_path_factory.mktemp("kill")
    base = save_llama(folder / "base", shard="30KB")
    assert len(list(base.glob("*.safetensors"))) > 4
    save_adapter_of(base, folder / "adapter", multilora())
    merge_adapters(base, [folder / "adapter"], folder / "undisturbed", DTYPE)
    return folder


def start(
    place: Path, out: Path, options: MergeOptions = DTYPE, moment: Moment | None = None
) -> tuple[BaseProcess, Path]:
    """A process of its own; and a file that says that it began."""
    began = out.with_name(f"{out.name}-began")
    began.unlink(missing_ok=True)
    process = children.start(_merge, place / "base", place / "adapter", out, options, began, moment)
    return process, began


def wait_for(there: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not there():
        assert time.monotonic() < deadline
        time.sleep(0.0005)


def test_killed_at_any_write(place: Path, tmp_path: Path) -> None:
    """At the k-th of all files that are written, renamed and removed; each time from the beginning, and run again."""
    with events_below(tmp_path) as events:
        merge_adapters(place / "base", [place / "adapter"], tmp_path / "undisturbed", DTYPE)
    assert len(events) > 4 * len(list((place / "base").glob("*.safetensors")))  # a shard: written, named, recorded
    last = len(events)
    counts = range(1, last + 1) if thorough() else sorted(seeded().sample(range(1, last + 1), 5))
    expected = contents(place / "undisturbed")
    for count in counts:
        folder = tmp_path / f"killed-{count}"
        folder.mkdir()
        process, _ = start(place, folder / "out", moment=Moment(str(folder), count=count + 1))  # one is our own
        process.join(60)
        assert process.exitcode == -signal.SIGKILL, count
        merge_adapters(place / "base", [place / "adapter"], folder / "out", DTYPE)
        assert contents(folder / "out") == expected
        assert not aside_of(folder / "out").exists()
        shutil.rmtree(folder)


@pytest.mark.full
def test_killed_at_20_random_moments(place: Path, tmp_path: Path) -> None:
    """Each time from the beginning, and run again to the end."""
    rng, kills = seeded(), 20
    process, began = start(place, tmp_path / "timed")
    wait_for(began.exists)
    first = time.perf_counter()
    process.join(60)
    whole = time.perf_counter() - first
    expected = contents(place / "undisturbed")
    unfinished = 0
    for kill in range(kills):
        out = tmp_path / f"out{kill}"
        process, began = start(place, out)
        wait_for(began.exists)
        time.sleep(rng.uniform(0, whole))
        process.kill()
        process.join(60)
        unfinished += not out.exists()
        merge_adapters(place / "base", [place / "adapter"], out, DTYPE)
        assert contents(out) == expected
        assert not aside_of(out).exists()
        shutil.rmtree(out)
    assert unfinished >= kills // 4  # most of them have hit the work


def test_killed_again_and_again(place: Path, tmp_path: Path) -> None:
    """Every run gets on by a file at least."""
    out = tmp_path / "out"
    shards = len(list((place / "base").glob("*.safetensors")))
    for done in range(1, shards):
        process, _ = start(place, out)
        wait_for(lambda done=done: len(list(aside_of(out).glob("*.safetensors"))) >= done or out.exists())
        process.kill()
        process.join(60)
    merge_adapters(place / "base", [place / "adapter"], out, DTYPE)
    assert contents(out) == contents(place / "undisturbed")


@pytest.mark.parametrize("name", MOMENTS)
def test_killed_at_a_bad_moment(place: Path, tmp_path: Path, name: str) -> None:
    """Over an earlier result, which is there until the new one is."""
    moment, complete = MOMENTS[name]
    out = tmp_path / "out"
    merge_adapters(place / "base", [place / "adapter"], out)
    earlier = contents(out)
    process, _ = start(place, out, AGAIN, moment)
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    if complete:
        assert contents(out).items() >= contents(place / "undisturbed").items()
        report = merge_adapters(place / "base", [place / "adapter"], out, DTYPE)
        assert report.complete_before
    else:
        kept = out if out.exists() else out.with_name(".out.replaced")
        assert contents(kept) == earlier
        merge_adapters(place / "base", [place / "adapter"], out, AGAIN)
    assert contents(out) == contents(place / "undisturbed")
    assert {path.name for path in tmp_path.iterdir()} == {"out", "out-began"}


def stopped_after(count: int, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Have a merge end with an error after some shards; the list takes the names of those that are merged."""
    merged: list[str] = []
    merge_shard = merge_module.merge_shard

    def counted(shard: Any, *arguments: Any) -> Any:
        if len(merged) == count:
            raise InputError("stop")
        merged.append(shard.name)
        return merge_shard(shard, *arguments)

    monkeypatch.setattr(merge_module, "merge_shard", counted)
    return merged


def test_complete_files_are_not_merged_again(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        first = stopped_after(3, patch)
        with pytest.raises(InputError, match=r"stop\. 3 of \d+ files are complete and are kept in '.*incomplete'"):
            merge_adapters(place / "base", [place / "adapter"], out, DTYPE)
    with monkeypatch.context() as patch:
        second = stopped_after(-1, patch)
        report = merge_adapters(place / "base", [place / "adapter"], out, DTYPE)
    assert not set(first) & set(second)
    assert set(first) | set(second) == set(report.shards)
    assert 0 < report.written < report.size
    assert contents(out) == contents(place / "undisturbed")


@pytest.mark.parametrize("other", ["options", "adapter", "a damaged file"])
def test_what_another_merge_left_is_not_used(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, other: str
) -> None:
    out, adapter = tmp_path / "out", tmp_path / "adapter"
    shutil.copytree(place / "adapter", adapter)
    if other == "adapter":
        shutil.rmtree(adapter)
        save_adapter_of(place / "base", adapter, multilora(r=2))
    with monkeypatch.context() as patch:
        stopped_after(3, patch)
        options = MergeOptions(weights=(2.0,), dtype="bfloat16") if other == "options" else DTYPE
        with pytest.raises(InputError, match="stop"):
            merge_adapters(place / "base", [adapter], out, options)
    if other == "a damaged file":
        file = sorted(aside_of(out).glob("*.safetensors"))[0]
        file.write_bytes(file.read_bytes()[:-1])
    merge_adapters(place / "base", [place / "adapter"], out, DTYPE)
    assert contents(out) == contents(place / "undisturbed")


def test_two_merges_do_not_write_into_one_folder(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"

    def meanwhile(*arguments: Any) -> None:
        merge_adapters(place / "base", [place / "adapter"], out, DTYPE)

    monkeypatch.setattr(OutputFile, "write", meanwhile)
    with pytest.raises(InputError, match="another merge is writing"):
        merge_adapters(place / "base", [place / "adapter"], out, DTYPE)
    monkeypatch.undo()
    merge_adapters(place / "base", [place / "adapter"], out, DTYPE)
    assert contents(out) == contents(place / "undisturbed")


def test_the_same_command_again_writes_nothing(place: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = merge_adapters(place / "base", [place / "adapter"], out, DTYPE)
    times = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    again = merge_adapters(place / "base", [place / "adapter"], out, DTYPE)
    assert again.complete_before
    assert not first.complete_before
    assert again.rounding == first.rounding
    assert {path: path.stat().st_mtime_ns for path in out.iterdir()} == times
