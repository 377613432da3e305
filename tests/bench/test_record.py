"""bench.json as it is read again: what is one, and what is said about a file that is none."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from multilora import InputError
from multilora.bench.record import read_bench
from report.bench import METHODS, bench_content, bench_record

Change = Callable[[dict[str, Any]], Any]


def test_a_file_and_its_folder_are_the_same(tmp_path: Path) -> None:
    (tmp_path / "bench.json").write_text(json.dumps(bench_content()))
    assert read_bench(tmp_path) == read_bench(tmp_path / "bench.json") == bench_record()


def test_what_is_written_is_read() -> None:
    record = bench_record((64, 8))
    assert [length for length, _ in record.ordered] == [8, 64]
    assert record.names == list(METHODS)
    assert record.lengths["8"].methods["multilora@3x8"].total_rank == 24
    assert record.lengths["8"].methods["full"].total_rank is None
    assert record.is_quiet


def at(content: dict[str, Any]) -> dict[str, Any]:
    return content["lengths"]["32"]["methods"]["lora@24"]


FAULTS: dict[str, tuple[Change, str]] = {
    "another version": (lambda c: c.update(format=1), "format: "),
    "no lengths": (lambda c: c.update(lengths={}), "lengths: "),
    "no methods": (lambda c: [of["methods"].clear() for of in c["lengths"].values()], "no method was measured"),
    "a length that is none": (lambda c: c["lengths"].update(x=c["lengths"]["32"]), "lengths.x"),
    "no speed": (lambda c: at(c).pop("tokens_per_second"), "lengths.32.methods.lora@24.tokens_per_second is missing"),
    "negative bytes": (lambda c: at(c)["bytes"].update(peak=-1), "lora@24.bytes.peak: "),
    "no number": (lambda c: at(c)["bytes"].update(peak=float("nan")), "lora@24.bytes.peak: "),
    "infinity": (lambda c: at(c)["tokens_per_second"].update(step=float("inf")), "lora@24.tokens_per_second.step: "),
    "a huge number": (lambda c: at(c).update(trainable_parameters=10**4000), "lora@24.trainable_parameters: "),
    "text": (lambda c: c["settings"].update(batch="two"), "settings.batch: "),
    "no kind": (lambda c: at(c).update(kind="dora"), "lora@24.kind: "),
    "a list": (lambda c: c.update(machine=[]), "machine: "),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_named_with_file_field_and_remedy(fault: str, tmp_path: Path) -> None:
    change, said = FAULTS[fault]
    content = copy.deepcopy(bench_content())
    change(content)
    check(tmp_path, json.dumps(content), said)


@pytest.mark.parametrize(
    ("text", "said"),
    [("", "is not JSON"), ("{", "is not JSON"), ("[]", "no object"), ("[" * 10**5, "is not JSON"), ("{}", "is missing"),
     ('{"format": ' + "9" * 5000 + "}", "is not JSON")],
    ids=["empty", "cut", "list", "deep", "nothing", "digits"],
)  # fmt: skip
def test_what_is_no_record_at_all_is_said(text: str, said: str, tmp_path: Path) -> None:
    check(tmp_path, text, said)


def test_bytes_and_folders_that_are_none(tmp_path: Path) -> None:
    file = tmp_path / "bench.json"
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="is not JSON"):
        read_bench(file)
    with pytest.raises(InputError, match=r"cannot read .*none.*multilora bench --out"):
        read_bench(tmp_path / "none")


def check(folder: Path, text: str, said: str) -> None:
    file = folder / "bench.json"
    file.write_text(text)
    with pytest.raises(InputError) as caught:
        read_bench(file)
    message = str(caught.value)
    assert said in message
    assert str(file) in message
    assert message.startswith("bench: ")
    assert message.endswith("give the bench.json that `multilora bench --out FOLDER` wrote")
    assert "\n" not in message
    assert len(message) < 600 + len(str(file))
