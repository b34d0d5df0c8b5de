"""Folders, locks and passwords of the embedded server, without a server."""

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from gca_core.errors import StoreError
from gca_core.store import embedded, layout, processes


def make(tmp_path: Path, *, home: Path | None = None) -> layout.Layout:
    folder = tmp_path / "postgres"
    folder.mkdir(exist_ok=True)
    return layout.Layout(home=home or tmp_path, folder=folder, instance=folder, socket_dir=folder / "run")


def test_passwords_are_made_once_and_private(tmp_path: Path) -> None:
    place = make(tmp_path)
    first = layout.make_credentials(place)
    assert set(first) == {"postgres", "gca_admin", "gca_app", "gca_agent"}
    assert all(len(password) >= 32 for password in first.values())
    assert layout.make_credentials(place) == first
    assert stat.S_IMODE((place.folder / "credentials.json").stat().st_mode) == 0o600


def test_half_written_passwords_count_as_lost(tmp_path: Path) -> None:
    place = make(tmp_path)
    (place.folder / "credentials.json").write_text('{"postgres": "x"')
    with pytest.raises(StoreError, match="restore that file"):
        layout.make_credentials(place)


def test_an_owner_on_this_host_is_no_obstacle(tmp_path: Path) -> None:
    place = make(tmp_path)
    layout.claim(place, 4711)
    layout.refuse_foreign_owner(tmp_path)
    layout.release(place.folder)
    assert layout.read_owner(place.folder) is None


def test_an_unreadable_owner_record_is_no_owner(tmp_path: Path) -> None:
    place = make(tmp_path)
    (place.folder / "owner.json").write_text(json.dumps({"host": 3}))
    assert layout.read_owner(place.folder) is None
    layout.refuse_foreign_owner(tmp_path)


def test_the_lock_is_exclusive(tmp_path: Path) -> None:
    with (
        layout.exclusive(tmp_path),
        pytest.raises(StoreError, match="has been starting or stopping"),
        layout.exclusive(tmp_path, 0.1),
    ):
        pass
    with layout.exclusive(tmp_path, 0.1):
        pass


def test_a_short_path_holds_the_socket_and_a_long_one_does_not(tmp_path: Path) -> None:
    assert layout._socket_dir(Path("/srv/gca/postgres")) == Path("/srv/gca/postgres/run")
    long = tmp_path / ("x" * 120)
    short = layout._socket_dir(long)
    assert len(os.fsencode(short)) <= layout.MAX_SOCKET_DIR
    assert short != layout._socket_dir(long / "other")


def test_a_folder_that_is_a_link_is_not_used(tmp_path: Path) -> None:
    target = tmp_path / "theirs"
    target.mkdir(mode=0o755)
    (tmp_path / "postgres").symlink_to(target)
    with pytest.raises(StoreError, match="can't be made"):
        layout.make_layout(tmp_path)
    assert stat.S_IMODE(target.stat().st_mode) == 0o755


@pytest.mark.parametrize("name", ["server.json", "owner.json", "credentials.json"])
@pytest.mark.parametrize("kind", ["link", "pipe"])
def test_records_are_not_read_through_links_nor_waited_for(tmp_path: Path, name: str, kind: str) -> None:
    place = make(tmp_path)
    (tmp_path / "other.json").write_text('{"instance": "/etc"}')
    if kind == "link":
        (place.folder / name).symlink_to(tmp_path / "other.json")
    else:
        os.mkfifo(place.folder / name)
    with pytest.raises(StoreError, match="another user or is a link"):
        embedded.start(tmp_path) if name != "credentials.json" else layout.read_credentials(tmp_path)


def test_a_data_folder_without_its_version_is_named_and_left_alone(tmp_path: Path) -> None:
    place = layout.make_layout(tmp_path)
    try:
        layout.make_credentials(place)
        place.data_dir.mkdir()
        (place.data_dir / "base").mkdir()
        with pytest.raises(StoreError, match="has lost its file PG_VERSION"):
            embedded.start(tmp_path)
        assert (place.data_dir / "base").exists()
    finally:
        assert embedded.remove(tmp_path)


def test_a_process_that_is_no_server_is_not_taken_for_one(tmp_path: Path) -> None:
    place = make(tmp_path)
    place.data_dir.mkdir()
    (place.data_dir / "postmaster.pid").write_text(f"{os.getpid()}\n{place.data_dir}\n1\n5432\n\n\n\nready\n")
    assert processes.running_pid(place.data_dir) is None
    processes.clear_leftovers(place)
    assert not (place.data_dir / "postmaster.pid").exists()


def test_the_log_is_kept_small(tmp_path: Path) -> None:
    log = tmp_path / "server.log"
    assert processes._rotate_log(log) == 0
    log.write_bytes(b"x" * 10)
    assert processes._rotate_log(log) == 10
    assert processes._rotate_log(log, limit=5) == 0
    assert not log.exists()
    assert (tmp_path / "server.log.1").stat().st_size == 10


@pytest.mark.parametrize("module", ["gca_core.store", "gca_core.runs", "gca_core.runs.state", "gca_core.atlas"])
def test_importing_the_rooms_alone_loads_nothing_heavy(module: str) -> None:
    heavy = {"psycopg", "anndata", "pandas", "numpy", "h5py"}
    code = f"import sys, {module}; print(sorted({heavy!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
