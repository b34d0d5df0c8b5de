"""What is kept of an ingest that was killed."""

from pathlib import Path

import numpy as np
import pytest

from gca_core.atlas.ingest import checkpoint as module
from gca_core.atlas.ingest.checkpoint import IngestCheckpoint


@pytest.fixture
def half(tmp_path: Path) -> Path:
    done = IngestCheckpoint(tmp_path, 10, 3)
    done.quality[:4] = 7.0
    done.advance(4)
    done.save()
    return tmp_path


def test_it_goes_on_where_it_stopped(half: Path) -> None:
    again = IngestCheckpoint(half, 10, 3)
    assert again.next_row == 4
    np.testing.assert_array_equal(again.quality[:4], np.full((4, 3), 7.0))
    assert not again.quality[4:].any()


def test_after_a_restart_of_the_machine_it_begins_anew(half: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_boot_id", lambda: "another")
    assert IngestCheckpoint(half, 10, 3).next_row == 0


@pytest.mark.parametrize("damage", [b"", b"PK\x03\x04 not a whole archive", b"text"])
def test_a_damaged_note_is_no_note(half: Path, damage: bytes) -> None:
    (half / module.PROGRESS_FILE).write_bytes(damage)
    assert IngestCheckpoint(half, 10, 3).next_row == 0


def test_a_note_of_another_file_is_no_note(half: Path) -> None:
    assert IngestCheckpoint(half, 3, 3).next_row == 0
    assert IngestCheckpoint(half, 10, 2).next_row == 0


def test_a_restart_forgets_it(half: Path) -> None:
    note = IngestCheckpoint(half, 10, 3)
    note.restart(counted=True)
    assert (note.next_row, note.counted) == (0, True)
    assert IngestCheckpoint(half, 10, 3).next_row == 0
