"""The chain of states."""

import re
from datetime import date
from pathlib import Path

import pytest
from pydantic import BaseModel, ValidationError

from gca_core.errors import StoreError
from gca_core.runs.models import RunRow, RunStatus, make_run_id
from gca_core.runs.state import StateRef, read_state, remove_states, write_state


class Data(BaseModel):
    text: str
    scores: list[float] = []


def chain(folder: Path, length: int) -> list[StateRef]:
    refs: list[StateRef] = []
    for index in range(length):
        previous = refs[-1] if refs else None
        refs.append(write_state(folder.as_uri(), index, Data(text=f"état {index}", scores=[0.1]), previous=previous))
    return refs


def test_a_state_is_read_back(tmp_path: Path) -> None:
    ref = chain(tmp_path, 1)[0]
    assert ref.uri == (tmp_path / "state-0.json").as_uri()
    assert read_state(ref, Data) == Data(text="état 0", scores=[0.1])


def test_the_same_content_gives_the_same_reference(tmp_path: Path) -> None:
    first = chain(tmp_path, 2)
    modified = (tmp_path / "state-1.json").stat().st_mtime_ns
    assert chain(tmp_path, 2) == first
    assert (tmp_path / "state-1.json").stat().st_mtime_ns == modified


def test_other_content_at_an_index_is_refused(tmp_path: Path) -> None:
    refs = chain(tmp_path, 1)
    with pytest.raises(StoreError, match="cut the run back first"):
        write_state(tmp_path.as_uri(), 0, Data(text="other"))
    assert read_state(refs[0], Data).text == "état 0"


def test_a_rewrite_removes_what_followed(tmp_path: Path) -> None:
    refs = chain(tmp_path, 4)
    new = write_state(tmp_path.as_uri(), 1, Data(text="other"), previous=refs[0], rewrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["state-0.json", "state-1.json"]
    assert read_state(new, Data).text == "other"
    with pytest.raises(StoreError, match="changed after it was written"):
        read_state(refs[1], Data)


def test_a_rewrite_with_the_same_content_removes_what_followed_too(tmp_path: Path) -> None:
    refs = chain(tmp_path, 4)
    same = write_state(tmp_path.as_uri(), 1, read_state(refs[1], Data), previous=refs[0], rewrite=True)
    assert same == refs[1]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["state-0.json", "state-1.json"]


def test_cutting_back_removes_the_states_from_an_index_on(tmp_path: Path) -> None:
    refs = chain(tmp_path, 12)
    (tmp_path / "state-3.json.note").write_text("not a state")
    assert remove_states(tmp_path.as_uri(), 2) == list(range(2, 12))
    assert read_state(refs[1], Data).text == "état 1"
    with pytest.raises(StoreError, match=r"state-2\.json is gone"):
        read_state(refs[2], Data)
    assert (tmp_path / "state-3.json.note").exists()
    assert remove_states((tmp_path / "nothing").as_uri(), 0) == []


def test_a_reference_to_another_index_or_model_is_refused(tmp_path: Path) -> None:
    class Other(BaseModel):
        number: int

    ref = chain(tmp_path, 1)[0]
    with pytest.raises(StoreError, match="holds state 0, expected 4"):
        read_state(ref.model_copy(update={"iteration": 4}), Data)
    with pytest.raises(StoreError, match="does not hold a Other"):
        read_state(ref, Other)


def test_a_state_follows_only_from_an_earlier_one(tmp_path: Path) -> None:
    refs = chain(tmp_path, 2)
    with pytest.raises(StoreError, match="can't follow from state 1"):
        write_state(tmp_path.as_uri(), 1, Data(text="x"), previous=refs[1])


def test_states_lie_in_object_stores_too() -> None:
    ref = write_state("memory://runs/r1", 0, Data(text="x"))
    assert read_state(ref, Data).text == "x"
    assert remove_states("memory://runs/r1", 0) == [0]


def test_a_run_has_an_id_and_known_states() -> None:
    with pytest.raises(ValidationError):
        RunRow(run_id="", question="q", results_uri="r")
    assert {status for status in RunStatus if status.is_final} == {
        RunStatus.COMPLETED,
        RunStatus.FAILED,
        RunStatus.CANCELLED,
    }


def test_an_id_is_the_day_and_a_hash_of_what_is_asked() -> None:
    ids = [make_run_id(date(2026, 11, 29), "dag", run, "haystack") for run in ("a", "b", "a")]
    assert all(re.fullmatch(r"hay_20261129_[0-9a-z]{6}", found) for found in ids)
    assert ids[0] == ids[2] != ids[1]


def test_an_answer_follows_the_state_of_its_index_and_goes_with_it(tmp_path: Path) -> None:
    refs = chain(tmp_path, 2)
    answer = write_state(tmp_path.as_uri(), 1, Data(text="go on"), previous=refs[1], answer=True)
    assert (answer.iteration, read_state(answer, Data).text) == (1, "go on")
    write_state(tmp_path.as_uri(), 2, Data(text="next"), previous=answer)
    assert remove_states(tmp_path.as_uri(), 1) == [1, 2]
    assert [path.name for path in tmp_path.iterdir()] == ["state-0.json"]
