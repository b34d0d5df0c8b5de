"""The embedded server: who owns it, who may enter, and what it outlives."""

import json
import os
import shutil
import signal
import socket
import stat
import tempfile
import time
from pathlib import Path

import psutil
import psycopg
import pytest

from gca_core.errors import StoreError
from gca_core.store import embedded, layout
from gca_core.store.connect import connect
from gca_core.store.redact import make_dsn, parse_dsn
from tests.helpers.atlas_cells import in_python

START = (
    "import sys; from pathlib import Path; from gca_core.store import embedded; "
    "print(embedded.start(Path(sys.argv[1])).pid, flush=True)"
)


def finish(process) -> str:
    out, err = process.communicate(timeout=90)
    assert process.returncode == 0, err
    return out.strip()


def test_status_names_the_server_with_its_home_and_data(gca_home: Path, embedded_dsn: str) -> None:
    [found] = [server for server in embedded.status() if server.home == gca_home.resolve()]
    assert found.running
    assert found.pid == embedded.start(gca_home).pid
    assert found.data_dir is not None
    assert found.uptime_seconds is not None
    assert (found.data_dir / "PG_VERSION").exists()
    assert found.size_bytes > 1_000_000
    assert embedded.status(gca_home)[0].pid == found.pid


@pytest.mark.parametrize("role", ["postgres", "gca_admin", "gca_app", "gca_agent"])
def test_no_role_enters_without_its_password(gca_home: Path, embedded_dsn: str, role: str) -> None:
    parts = parse_dsn(embedded_dsn) | {"user": role}
    parts.pop("password")
    with pytest.raises(StoreError, match="password"):
        connect(make_dsn(**parts))
    with pytest.raises(StoreError, match="password authentication failed"):
        connect(make_dsn(**parts, password="wrong"))


def test_passwords_are_stored_as_scram_and_readable_by_their_owner_alone(gca_home: Path, embedded_dsn: str) -> None:
    passwords = layout.read_credentials(gca_home)
    dsn = make_dsn(**(parse_dsn(embedded_dsn) | {"user": "postgres", "password": passwords["postgres"]}))
    with connect(dsn) as connection:
        stored = connection.execute(
            "select rolname, rolpassword from pg_authid where rolpassword is not null"
        ).fetchall()
        methods = connection.execute("select distinct auth_method from pg_hba_file_rules").fetchall()
        assert connection.execute("show listen_addresses").fetchone() == ("",)
    assert {name for name, _ in stored} == {"postgres", "gca_admin", "gca_app", "gca_agent"}
    assert all(password.startswith("SCRAM-SHA-256$") for _, password in stored)
    assert methods == [("scram-sha-256",)]
    assert len(set(passwords.values())) == 4
    assert stat.S_IMODE((gca_home / "postgres" / "credentials.json").stat().st_mode) == 0o600


def test_no_parent_of_the_data_folder_was_opened_to_others(gca_home: Path, embedded_dsn: str) -> None:
    assert stat.S_IMODE(gca_home.stat().st_mode) == 0o700
    assert stat.S_IMODE((gca_home / "postgres").stat().st_mode) == 0o700
    data_dir = embedded.start(gca_home).data_dir
    assert stat.S_IMODE(data_dir.stat().st_mode) == 0o700
    assert stat.S_IMODE(data_dir.parent.stat().st_mode) & 0o007 == 0


def test_two_processes_that_start_it_at_once_get_one_server(fresh_home: Path) -> None:
    processes = [in_python(START, str(fresh_home)) for _ in range(2)]
    pids = {finish(process) for process in processes}
    assert len(pids) == 1
    assert [str(server.pid) for server in embedded.status() if server.home == fresh_home.resolve()] == list(pids)


@pytest.mark.slow
def test_what_the_agent_changed_of_itself_is_set_again_at_the_next_start(fresh_home: Path) -> None:
    with connect(embedded.start(fresh_home).dsn("agent")) as connection:
        connection.execute("set transaction read write")
        connection.execute("alter role gca_agent set statement_timeout = 0")
        connection.execute("alter role gca_agent in database gca set default_transaction_read_only = off")
        connection.execute("alter role gca_agent set search_path = nowhere")
        connection.execute("alter role gca_agent password 'mine'")
    embedded.stop(fresh_home)
    with connect(embedded.start(fresh_home).dsn("agent")) as connection:
        names = ("statement_timeout", "default_transaction_read_only", "search_path", "temp_file_limit")
        found = [connection.execute("select current_setting(%s)", [name]).fetchone() for name in names]
    assert found == [("30s",), ("on",), ('"$user", public',), ("2GB",)]


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="only root writes beside what another user owns")
def test_root_follows_no_link_that_the_servers_user_left(fresh_home: Path, tmp_path: Path) -> None:
    server = embedded.start(fresh_home)
    embedded.stop(fresh_home)
    victim = tmp_path / "victim"
    victim.write_text("kept")
    victim.chmod(0o600)
    assert server.data_dir.parent.stat().st_uid == 0
    for name in ("home", "data/gca.conf", "data/.gca.conf.new", "data/postmaster.pid"):
        path = server.data_dir.parent / name
        path.unlink(missing_ok=True)
        path.symlink_to(victim)
    embedded.start(fresh_home)
    assert (victim.read_text(), victim.stat().st_uid, stat.S_IMODE(victim.stat().st_mode)) == ("kept", 0, 0o600)
    embedded.stop(fresh_home)
    server.socket_dir.rmdir()
    server.socket_dir.symlink_to(tmp_path)
    with pytest.raises(StoreError, match="can't be made"):
        embedded.start(fresh_home)
    assert tmp_path.stat().st_uid == 0


def test_it_outlives_its_starter_without_its_secrets_and_can_be_stopped(fresh_home, monkeypatch) -> None:
    for name in ("OPENAI_API_KEY", "GCA_ATLAS_DSN", "AIRFLOW_CONN_GCA_ATLAS_DEFAULT", "MY_TOKEN", "PGPASSWORD"):
        monkeypatch.setenv(name, "hush-hush")
    starter = in_python(START + "; import time; time.sleep(60)", str(fresh_home))
    pid = int(starter.stdout.readline())
    server = psutil.Process(pid)
    for process in (server, *server.children()):
        assert b"hush-hush" not in Path(f"/proc/{process.pid}/environ").read_bytes()
    assert os.getpgid(pid) != starter.pid
    assert pid not in {child.pid for child in psutil.Process(starter.pid).children(recursive=True)}
    os.killpg(starter.pid, signal.SIGINT)
    os.killpg(starter.pid, signal.SIGTERM)
    os.killpg(starter.pid, signal.SIGKILL)
    starter.communicate()
    time.sleep(0.3)
    with connect(embedded.start(fresh_home).dsn("app")) as connection:
        assert connection.execute("select 1").fetchone() == (1,)
    assert embedded.stop(fresh_home)
    assert not server.is_running() or server.status() == psutil.STATUS_ZOMBIE
    assert not embedded.stop(fresh_home)
    assert [server.running for server in embedded.status(fresh_home)] == [False]


@pytest.mark.slow
def test_a_set_up_that_was_killed_is_completed_by_the_next_start(fresh_home: Path) -> None:
    for delay in (0.15, 0.3, 0.45):
        starter = in_python(START, str(fresh_home))
        time.sleep(delay + 0.2)
        os.killpg(starter.pid, signal.SIGKILL)
        starter.communicate()
    with connect(embedded.start(fresh_home).dsn("agent")) as connection:
        assert connection.execute("select current_user").fetchone() == ("gca_agent",)


def test_a_killed_server_starts_again_with_its_data(fresh_home: Path) -> None:
    server = embedded.start(fresh_home)
    with connect(server.dsn("admin")) as connection:
        connection.execute("create table kept (value integer)")
        connection.execute("insert into kept values (7)")
    os.kill(server.pid, signal.SIGKILL)
    # a number in the pid file that is some other process now, as after a container's restart
    record = server.data_dir / "postmaster.pid"
    lines = record.read_text().splitlines()
    record.write_text("\n".join([str(os.getpid()), *lines[1:]]) + "\n")
    again = embedded.start(fresh_home)
    assert again.pid != server.pid
    with connect(again.dsn("admin")) as connection:
        assert connection.execute("select value from kept").fetchone() == (7,)


def test_the_lock_of_another_host_is_respected(fresh_home: Path) -> None:
    folder = fresh_home / "postgres"
    folder.mkdir()
    (folder / "owner.json").write_text(json.dumps({"host": "other-host", "user": "ada", "pid": 12}))
    for action in (embedded.start, embedded.stop, embedded.status):
        with pytest.raises(StoreError, match=r"belongs to host 'other-host'.*GCA_ATLAS_DSN"):
            action(fresh_home)
    assert not (folder / "credentials.json").exists()


def test_the_lock_names_host_user_and_pid(gca_home: Path, embedded_dsn: str) -> None:
    owner = layout.read_owner(gca_home / "postgres")
    assert owner == layout.Owner(host=socket.gethostname(), user=layout.user_name(), pid=embedded.start(gca_home).pid)


@pytest.mark.slow
def test_a_server_whose_home_was_deleted_is_named_and_can_be_stopped(fresh_home: Path) -> None:
    server = embedded.start(fresh_home)
    shutil.rmtree(fresh_home)
    [found] = [found for found in embedded.status() if found.home == fresh_home.resolve()]
    assert (found.pid, found.home_exists) == (server.pid, False)
    # a new home at the same place doesn't inherit a database whose passwords are gone
    fresh_home.mkdir(mode=0o700)
    again = embedded.start(fresh_home)
    assert again.pid != server.pid
    assert [found.pid for found in embedded.status() if found.home == fresh_home.resolve()] == [again.pid]


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="only root's data lies outside GCA_HOME")
def test_data_whose_home_was_deleted_is_listed_and_can_be_removed(fresh_home: Path) -> None:
    server = embedded.start(fresh_home)
    embedded.stop(fresh_home)
    shutil.rmtree(fresh_home)
    [found] = [found for found in embedded.left_behind() if found.home == fresh_home.resolve()]
    assert (found.running, found.home_exists, found.data_dir) == (False, False, server.data_dir)
    assert embedded.remove(fresh_home)
    assert not server.data_dir.parent.exists()


@pytest.mark.slow
def test_lost_passwords_destroy_nothing_and_lost_data_is_made_again(fresh_home: Path) -> None:
    server = embedded.start(fresh_home)
    embedded.stop(fresh_home)
    credentials = fresh_home / "postgres" / "credentials.json"
    kept = credentials.read_text()
    credentials.unlink()
    with pytest.raises(StoreError, match="restore that file"):
        embedded.start(fresh_home)
    credentials.write_text(kept)
    with connect(embedded.start(fresh_home).dsn("app")) as connection:
        assert connection.execute("select 1").fetchone() == (1,)
    embedded.stop(fresh_home)
    # a container that kept GCA_HOME and not root's data folder
    shutil.rmtree(server.data_dir)
    with connect(embedded.start(fresh_home).dsn("agent")) as connection:
        assert connection.execute("select current_user").fetchone() == ("gca_agent",)


@pytest.mark.slow
def test_names_of_folders_are_never_commands(fresh_home: Path) -> None:
    home = fresh_home / 'it\'s $(touch x) "q"; äöü'
    try:
        with connect(embedded.start(home).dsn("app")) as connection:
            assert connection.execute("select 1").fetchone() == (1,)
    finally:
        embedded.remove(home)
    assert not Path("x").exists()


@pytest.mark.slow
def test_a_path_too_long_for_a_socket_gets_a_short_one(fresh_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layout, "MAX_SOCKET_DIR", 16)
    info = embedded.start(fresh_home)
    assert info.socket_dir.parent == Path(tempfile.gettempdir())
    with psycopg.connect(info.dsn("app")) as connection:
        assert connection.execute("select 1").fetchone() == (1,)
    embedded.remove(fresh_home)
    assert not info.socket_dir.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root's programs can lie where PostgreSQL's user can't reach them")
@pytest.mark.slow
def test_programs_in_a_closed_folder_are_copied_and_the_folder_stays_closed(fresh_home, tmp_path, monkeypatch):
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    install = layout._packaged_binaries().parent
    for folder in (install, install.parents[1] / f"{install.parent.name}.libs"):
        shutil.copytree(folder, closed / folder.relative_to(install.parents[1]), symlinks=True)
    monkeypatch.setattr(layout, "_packaged_binaries", lambda: closed / install.parent.name / install.name / "bin")
    info = embedded.start(fresh_home)
    program = Path(psutil.Process(info.pid).exe())
    try:
        assert program.parents[4] == info.data_dir.parent.parent
        assert stat.S_IMODE(closed.stat().st_mode) == 0o700
        embedded.stop(fresh_home)
        assert embedded.start(fresh_home).data_dir == info.data_dir
    finally:
        embedded.stop(fresh_home)
        shutil.rmtree(program.parents[3])
