"""Model cards: ours are renewed, empty forms replaced, and what somebody wrote stays, byte by byte."""

from __future__ import annotations

from pathlib import Path

import pytest
from huggingface_hub import ModelCard, ModelCardData

from multilora.storage.model_card import CARD_FILE, Card, hub_id, is_ours, own_card, table, write_card

CARD = Card("Title", "Text.", {"tags": ["b", "a"], "library_name": "peft", "base_model": None}, (("More", "Words."),))
OTHER = Card("Another", "Text.")


def read(folder: Path) -> ModelCard:
    return ModelCard.load(folder / CARD_FILE)


def test_a_card_is_written_and_is_valid(tmp_path: Path) -> None:
    assert not is_ours(tmp_path / CARD_FILE)
    assert write_card(tmp_path, CARD)
    assert is_ours(tmp_path / CARD_FILE)
    assert own_card(tmp_path) == (CARD_FILE,)
    assert read(tmp_path).data.to_dict() == {"tags": ["a", "b"], "library_name": "peft"}
    assert "# Title\n\nText.\n\n## More\n\nWords.\n" in read(tmp_path).text
    assert [file.name for file in tmp_path.iterdir()] == [CARD_FILE]


def test_writing_again_changes_no_byte(tmp_path: Path) -> None:
    write_card(tmp_path, CARD)
    before = (tmp_path / CARD_FILE).read_bytes()
    write_card(tmp_path, CARD)
    assert (tmp_path / CARD_FILE).read_bytes() == before


def test_ours_is_renewed_and_what_stands_around_it_stays(tmp_path: Path) -> None:
    write_card(tmp_path, CARD)
    file = tmp_path / CARD_FILE
    file.write_text(file.read_text().replace("tags:", "license: mit\ntags:\n- mine") + "\n## My own section\n\nMine.\n")
    assert write_card(tmp_path, OTHER.with_({"tags": ["c"]}, ("Last", "x \\1 \\g<0>")))
    text = file.read_text()
    assert "# Title" not in text
    assert "# Another\n\nText.\n\n## Last\n\nx \\1 \\g<0>\n" in text
    assert text.endswith("## My own section\n\nMine.\n")
    assert read(tmp_path).data.to_dict() == {"license": "mit", "tags": ["a", "b", "c", "mine"], "library_name": "peft"}


@pytest.mark.parametrize(
    "somebodys",
    [
        "# My model\n",
        "---\nlicense: mit\n---\nMine.",
        "no card at all \x0c\r\n",
        "---\nnot: [yaml\n---\n",
        str(ModelCard.from_template(ModelCardData())).replace("[More Information Needed]", "Me", 1),
    ],
)
def test_somebody_s_card_stays_byte_by_byte(tmp_path: Path, somebodys: str) -> None:
    (tmp_path / CARD_FILE).write_bytes(somebodys.encode())
    assert not write_card(tmp_path, CARD)
    assert (tmp_path / CARD_FILE).read_bytes() == somebodys.encode()
    assert own_card(tmp_path) == ()


def test_a_change_of_one_letter_makes_ours_somebody_s(tmp_path: Path) -> None:
    write_card(tmp_path, CARD)
    file = tmp_path / CARD_FILE
    changed = file.read_text().replace("Words", "Sword")
    file.write_text(changed)
    assert not is_ours(file)
    assert not write_card(tmp_path, OTHER)
    assert file.read_text() == changed


def test_an_empty_form_is_replaced(tmp_path: Path) -> None:
    form = ModelCard.from_template(ModelCardData())  # as PEFT does
    form.data["tags"], form.data["base_model"] = ["trl"], str(tmp_path / "base")
    form.text = f"{form.text}\n### Framework versions\n\n- PEFT 0.21.2"
    form.save(tmp_path / CARD_FILE)
    assert write_card(tmp_path, CARD)
    assert "[More Information Needed]" not in (tmp_path / CARD_FILE).read_text()
    assert read(tmp_path).text.endswith("### Framework versions\n\n- PEFT 0.21.2\n")
    assert read(tmp_path).data.to_dict() == {"tags": ["a", "b", "trl"], "library_name": "peft"}  # no folder of mine


def test_a_trainer_s_card_gets_our_part_at_its_end(tmp_path: Path) -> None:
    words = "# Model Card for x\n\nIt has been trained using [TRL](https://github.com/huggingface/trl).\n"
    (tmp_path / CARD_FILE).write_text(f"---\ntags:\n- trl\n---\n\n{words}")
    assert write_card(tmp_path, CARD)
    assert write_card(tmp_path, OTHER)
    text = read(tmp_path).text
    assert text.strip().startswith(words.strip())
    assert (text.count("# Title"), text.count("# Another")) == (0, 1)
    assert read(tmp_path).data.tags == ["a", "b", "trl"]


def test_a_hub_s_id_is_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("org/name").mkdir(parents=True)
    ids = {name: hub_id(name) for name in ("gpt2", "org/model", "org/name", "/a/b", "a/b/c", "./a", "", None)}
    assert ids == dict.fromkeys(ids) | {"gpt2": "gpt2", "org/model": "org/model"}


def test_a_cell_cannot_end_a_table(tmp_path: Path) -> None:
    assert table(("a", "b"), [("x|y", 1)]) == "| a | b |\n| --- | --- |\n| x\\|y | 1 |"
