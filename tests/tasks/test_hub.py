"""Data sets of the Hub, read from local folders in its layout: the same examples as from the data sets' own files."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import datasets
import pytest

from multilora import InputError
from multilora.tasks.data_sets.mmlu import MMLU
from multilora.tasks.data_sets.mmlu_subjects import SUBJECTS
from multilora.tasks.example import BadRow, Example, NoSplitError
from multilora.tasks.folder import FolderTask
from multilora.tasks.hub import HubSource
from multilora.tasks.keys import key_of
from multilora.tasks.registry import built_in
from tasks.formats import DATA_SETS, JSON_LINES, made_up, write_lines, write_mmlu
from tasks.hub_layout import as_on_hub, made_up_rows, write_hub, write_mmlu_hub, write_split

KINDS: list[str] = [kind for kind in DATA_SETS if kind != "mmlu"]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where `datasets` puts its Arrow files."""
    folder = tmp_path / "cache"
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", folder)
    return folder


def on_hub(kind: str, folder: Path | str, **options: Any) -> FolderTask:
    section = built_in()[kind].model_validate({"task": kind, "hub": str(folder), **options})
    task = section.build("t")
    assert isinstance(task, FolderTask)
    return task


def good(rows: Iterable[Example | BadRow]) -> list[Example]:
    found = list(rows)
    assert [row for row in found if isinstance(row, BadRow)] == []
    return [row for row in found if isinstance(row, Example)]


def without_places(rows: Iterable[Example | BadRow]) -> list[tuple[Any, ...]]:
    return [
        (row.id, row.prompt, row.completion, row.choices, row.answers, row.group, row.key, row.short)
        for row in good(rows)
    ]


# The law: a row is the same example from either source -------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_is_the_same_example_from_either_source(kind: str, tmp_path: Path) -> None:
    own = made_up(kind, tmp_path / "own")
    hub = on_hub(kind, write_hub(kind, tmp_path / "hub", made_up_rows(kind)))
    hub.check()
    assert without_places(hub.train_rows()) == without_places(own.train_rows())
    if kind != "alpaca":
        hub.check("test")
        assert without_places(hub.eval_rows("test")) == without_places(own.eval_rows("test"))


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_rows_are_held_out_of_either_source(kind: str, tmp_path: Path) -> None:
    own = made_up(kind, tmp_path / "own", share=0.5)
    hub = on_hub(kind, write_hub(kind, tmp_path / "hub", made_up_rows(kind)), validation_share=0.5)
    for rows in ("train_rows", "eval_rows"):
        arguments = () if rows == "train_rows" else ("validation",)
        assert without_places(getattr(hub, rows)(*arguments)) == without_places(getattr(own, rows)(*arguments))


def test_a_noun_phrase_of_wsc_is_spelled_as_in_the_text_from_either_source(tmp_path: Path) -> None:
    target = {"span1_index": 3, "span1_text": "The\nworm.", "span2_index": 6, "span2_text": "It"}
    row = {"text": "The fish ate the worm . It was tasty.", "target": target, "idx": 0, "label": True}
    assert as_on_hub("wsc", row)[0]["span1_text"] == "the worm"
    write_lines(tmp_path / "own" / "train.jsonl", [row])
    hub = on_hub("wsc", write_hub("wsc", tmp_path / "hub", {"train": [row]}))
    assert without_places(hub.train_rows()) == without_places(DATA_SETS["wsc"]("t", tmp_path / "own").train_rows())


@pytest.mark.parametrize("kind", ["boolq", "cb", "copa", "rte"])
def test_labels_are_classes_by_number_where_a_file_names_none(kind: str, tmp_path: Path) -> None:
    rows = [row for i in range(5) for row in as_on_hub(kind, JSON_LINES[kind](i))]
    write_lines(tmp_path / "hub" / kind / "train.jsonl", rows)
    own = made_up(kind, tmp_path / "own")
    assert without_places(on_hub(kind, tmp_path / "hub").train_rows()) == without_places(own.train_rows())


def test_mmlu_is_the_same_from_either_source(tmp_path: Path) -> None:
    write_mmlu(tmp_path / "own")
    own = MMLU("t", tmp_path / "own", shots=2)
    hub = on_hub("mmlu", write_mmlu_hub(tmp_path / "hub"), shots=2)
    for split in ("train", "validation", "test"):
        hub.check(split)
    assert without_places(hub.eval_rows("test")) == without_places(own.eval_rows("test"))
    assert isinstance(hub, MMLU)
    assert without_places(hub.shown_rows()) == without_places(own.shown_rows())
    validation = good(hub.eval_rows("validation"))
    assert [row.id for row in validation[:3]] == [f"val-{SUBJECTS[0]}-{i}" for i in (1, 2, 3)]
    trained = good(hub.train_rows())
    assert trained[1].prompt.endswith(".\n\nwhat is 1?\nA. w\nB. x\nC. y\nD. z\nAnswer:")
    assert (trained[1].completion, trained[1].id.rpartition("-")[2]) == (" B", "2")
    assert len({row.id for row in (*trained, *validation)}) == len(trained) + len(validation)
    assert not {key_of(row) for row in trained} & {key_of(row) for row in validation}


def test_mmlus_auxiliary_folder_takes_the_place_of_the_hubs(tmp_path: Path) -> None:
    write_mmlu(tmp_path / "own")
    hub = on_hub("mmlu", write_mmlu_hub(tmp_path / "hub"), auxiliary=str(tmp_path / "own" / "auxiliary_train"))
    own = MMLU("t", tmp_path / "own")
    hub.check()
    assert without_places(hub.train_rows()) == without_places(own.train_rows())
    assert len(good(hub.eval_rows("test"))) == 2 * len(SUBJECTS)


# How it is read ----------------------------------------------------------------------------------------------------


def test_rows_are_named_by_their_place_and_files_are_told(tmp_path: Path) -> None:
    folder = write_hub("rte", tmp_path / "hub", made_up_rows("rte"))
    task = on_hub("rte", folder)
    assert next(iter(good(task.train_rows()))).source == f"{folder}/rte train row 1"
    assert task.files("train") == [folder / "rte" / "train-00000-of-00001.parquet"]


def test_a_split_is_its_own_files_and_no_others(tmp_path: Path) -> None:
    kinds = {split: [{"a": split}] for split in ("train", "train_sft", "auxiliary_train", "dev")}
    for split, rows in kinds.items():
        write_split(tmp_path / "hub" / "data", split, rows)
    source = HubSource("p", str(tmp_path / "hub"))
    assert {split: [row["a"] for _, row in source.rows(split)] for split in kinds} == {
        split: [split] for split in kinds
    }
    with pytest.raises(InputError, match=r"p: the folder '.*hub' has no file of the split 'test', such as test-00000"):
        list(source.rows("test"))


def test_a_changed_file_is_read_anew(tmp_path: Path) -> None:
    for text in ("one", "another"):
        file = write_split(tmp_path / "hub", "train", [{"a": text}])
        os.utime(file, ns=(0, len(text)))
        assert [row for _, row in HubSource("p", str(tmp_path / "hub")).rows("train")] == [{"a": text}]


def test_rows_lie_on_disk_and_are_mapped_into_memory(tmp_path: Path, cache: Path) -> None:
    write_split(tmp_path / "hub", "train", [{"a": "x" * 1000} for _ in range(1000)])
    source = HubSource("p", str(tmp_path / "hub"))
    table = source._table("train")
    assert sum(1 for _ in source.rows("train")) == 1000
    assert [Path(file["filename"]).is_relative_to(cache) for file in table.cache_files] == [True]


# Bad input ---------------------------------------------------------------------------------------------------------


def test_without_network_the_error_names_field_id_and_remedy() -> None:
    task = built_in()["rte"].model_validate({"task": "rte"}).build("t")
    task.check()  # the Hub is not asked
    with pytest.raises(InputError) as caught:
        list(task.train_rows())
    text = str(caught.value)
    assert text.startswith("tasks.t.hub: cannot load the split 'train' of 'aps/super_glue', configuration 'rte': ")
    for remedy in ("unset HF_HUB_OFFLINE", "name a local folder in the Hub's layout", "in folder"):
        assert remedy in text
    assert "\n" not in text


@pytest.mark.parametrize("name", ["{}/nowhere", "./nowhere", "a/b/c"])
def test_a_folder_that_is_not_there_is_no_id(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"tasks\.t\.hub: no folder '"):
        on_hub("rte", name.format(tmp_path)).check()


def test_a_local_folder_has_no_revision(tmp_path: Path) -> None:
    folder = write_hub("rte", tmp_path / "hub", made_up_rows("rte"))
    with pytest.raises(InputError, match=r"tasks\.t\.hub: .* is a local folder, which has no revision 'v1'"):
        on_hub("rte", folder, revision="v1").check()


def test_a_truncated_file_is_an_error(tmp_path: Path) -> None:
    folder = write_hub("rte", tmp_path / "hub", made_up_rows("rte"))
    file = folder / "rte" / "train-00000-of-00001.parquet"
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(InputError, match=r"tasks\.t\.hub: cannot load the split 'train' of .*Fetch the files again"):
        list(on_hub("rte", folder).train_rows())


def test_an_unknown_label_is_a_bad_row(tmp_path: Path) -> None:
    rows = [row for i in range(3) for row in as_on_hub("rte", JSON_LINES["rte"](i))]
    rows[1]["label"] = -1  # as in the Hub's test splits
    write_split(tmp_path / "hub" / "rte", "train", rows)
    (bad,) = [row for row in on_hub("rte", tmp_path / "hub").train_rows() if isinstance(row, BadRow)]
    assert bad.source.endswith("rte train row 2")
    assert "unknown label -1 in field 'label'" in bad.why


@pytest.mark.parametrize("kind", KINDS)
def test_a_column_that_is_missing_is_an_error(kind: str, tmp_path: Path) -> None:
    for column in DATA_SETS[kind].on_hub.columns:
        (row,) = as_on_hub(kind, JSON_LINES[kind](0))[:1]
        row[f"{column}s"] = row.pop(column)
        folder = tmp_path / column
        write_split(folder, "train", [row])
        with pytest.raises(InputError) as caught:
            list(on_hub(kind, folder).train_rows())
        wanted = rf"tasks\.t\.hub: the split 'train' of '.*' has no column '{column}'; nearest: '{column}s'.*\. It has "
        assert re.match(wanted, str(caught.value)), caught.value


def test_a_column_of_mmlu_that_is_missing_is_an_error(tmp_path: Path) -> None:
    rows = [{"input": "What?", "subject": SUBJECTS[0], "choices": list("wxyz"), "answer": 0}]
    write_split(tmp_path / "all", "test", rows)
    with pytest.raises(
        InputError, match=r"tasks\.t\.hub: .* has no column 'question'.*; name a data set with question,"
    ):
        list(on_hub("mmlu", tmp_path).eval_rows("test"))


def test_too_few_shots_are_named_by_their_place(tmp_path: Path) -> None:
    folder = write_mmlu_hub(tmp_path / "hub")
    rows = [{"question": "Why?", "subject": SUBJECTS[0], "choices": list("wxyz"), "answer": 0}]
    write_split(folder / "all", "dev", rows)
    with pytest.raises(
        InputError, match=rf"tasks\.t\.shots: .*hub dev, {SUBJECTS[0]}, has 1 rows, fewer than shots = 2"
    ):
        list(on_hub("mmlu", folder, shots=2).eval_rows("test"))


def test_an_id_that_comes_twice_is_a_bad_row(tmp_path: Path) -> None:
    rows = made_up_rows("multirc")
    folder = write_hub("multirc", tmp_path / "hub", {"train": [*rows["train"], rows["train"][0]]})
    bad = [row for row in on_hub("multirc", folder).train_rows() if isinstance(row, BadRow)]
    assert len(bad) == 3
    assert "stands in" in bad[0].why


def test_a_split_without_rows_and_one_that_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "hub").mkdir()
    datasets.Dataset.from_dict({"instruction": []}).to_parquet(tmp_path / "hub" / "train.parquet")
    task = on_hub("alpaca", tmp_path / "hub")
    with pytest.raises(InputError, match=r"tasks\.t\.hub: cannot load the split 'train' .*no data"):
        list(task.train_rows())
    with pytest.raises(NoSplitError, match="has no test split"):
        task.check("test")
    with pytest.raises(NoSplitError, match="no validation split"):
        task.check("validation")
