"""The embedded PostgreSQL: one server per GCA_HOME, started on first use, stopped on request only."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

import psycopg
from psycopg import sql

from gca_core.errors import StoreError
from gca_core.store import layout as places
from gca_core.store import processes
from gca_core.store.layout import Layout
from gca_core.store.models import AGENT_SETTINGS, DATABASE, PORT, ServerInfo, ServerStatus
from gca_core.store.redact import make_dsn

log = logging.getLogger(__name__)

START_SECONDS = 60.0
STOP_SECONDS = 60.0
INITDB_SECONDS = 300.0
_SETTINGS = {
    "listen_addresses": "",
    "port": str(PORT),
    "unix_socket_permissions": "0700",
    "password_encryption": "scram-sha-256",
    "max_connections": "100",
    "log_checkpoints": "off",
    "jit": "off",
    "max_wal_size": "4GB",
    "timezone": "UTC",
}


def start(home: Path, *, timeout: float = START_SECONDS) -> ServerInfo:
    """The embedded server of a GCA_HOME, started and set up if it isn't yet.

    Safe to call from several processes at once, and after any of them was killed half-way.

    Args:
        home: GCA_HOME.
        timeout: seconds to wait for the server once its process runs.

    Raises:
        StoreError: another host owns it, or it can't be made or started.
        ConfigurationError: the ``embedded`` extra is not installed.
    """
    home = home.expanduser().resolve()
    places.refuse_foreign_owner(home)
    running = _running(home)
    if running is not None:
        return running
    layout = places.make_layout(home)
    with places.exclusive(layout.folder):
        places.refuse_foreign_owner(home)
        running = _running(home)
        if running is not None:
            return running
        places.claim(layout, 0)
        _drop_abandoned(layout)
        places.update_state(layout, instance=str(layout.instance), home=str(home))
        places.name_home(layout)
        return _start(layout, timeout)


def stop(home: Path, *, timeout: float = STOP_SECONDS) -> bool:
    """Stop the server of a GCA_HOME and wait until it is gone; False when none was running.

    Raises:
        StoreError: another host owns it, or it doesn't end in time.
    """
    home = home.expanduser().resolve()
    places.refuse_foreign_owner(home)
    layout = places.find_layout(home)
    if layout is None or not layout.folder.exists():
        return _stop_abandoned(home, timeout)
    with places.exclusive(layout.folder):
        stopped = processes.end_server(layout.data_dir, timeout)
        places.release(layout.folder)
    if stopped:
        log.info("stopped the embedded PostgreSQL of %s", home)
    return stopped


def status(home: Path | None = None) -> list[ServerStatus]:
    """The server of one GCA_HOME, or, for None, every running one of this user on this machine.

    The latter are found by their processes, so a server whose GCA_HOME was deleted is named too.

    Raises:
        StoreError: another host runs the server of this GCA_HOME.
    """
    if home is None:
        return [_status(found_home, data, process.pid) for process, data, found_home in processes.find_servers()]
    home = home.expanduser().resolve()
    places.refuse_foreign_owner(home)
    layout = places.find_layout(home)
    if layout is None:
        return [ServerStatus(home=home, home_exists=home.exists(), running=False)]
    return [_status(home, layout.data_dir, processes.running_pid(layout.data_dir))]


def left_behind() -> list[ServerStatus]:
    """Root's data folders that don't run and whose GCA_HOME was deleted; :func:`remove` deletes them."""
    running = {data for _process, data, _home in processes.find_servers()}
    found = [(home, instance / "data") for home, instance in places.root_instances() if not home.exists()]
    return [_status(home, data, None) for home, data in found if data.exists() and data not in running]


def remove(home: Path, *, timeout: float = STOP_SECONDS) -> bool:
    """Stop the server of a GCA_HOME and delete its database for good; False when there was none.

    Raises:
        StoreError: another host owns it, or it doesn't end in time.
    """
    home = home.expanduser().resolve()
    stop(home, timeout=timeout)
    folder = places.folder_of(home)
    layout = places.find_layout(home) or places.expected_layout(home)
    found = layout.data_dir.exists()
    for path in {layout.socket_dir, layout.instance, folder}:
        shutil.rmtree(path, ignore_errors=True)
    return found


def _running(home: Path) -> ServerInfo | None:
    """The server when it runs and its set-up is complete."""
    layout = places.find_layout(home)
    if layout is None or not places.read_state(layout.folder).get("complete"):
        return None
    pid = processes.running_pid(layout.data_dir)
    return None if pid is None else _info(layout, pid)


def _start(layout: Layout, timeout: float) -> ServerInfo:
    began = time.monotonic()
    passwords = places.make_credentials(layout)
    bin_dir = places.binaries(layout)
    if not (layout.data_dir / "PG_VERSION").exists():
        if places.read_state(layout.folder).get("complete"):
            log.warning("the data folder %s is gone; starting with an empty database", layout.data_dir)
        places.update_state(layout, complete=False)
        log.info("setting up an embedded PostgreSQL in %s", layout.data_dir)
        _initdb(layout, bin_dir, passwords[places.SUPERUSER])
    pid = processes.running_pid(layout.data_dir)
    if pid is None:
        processes.clear_leftovers(layout)
        _write_settings(layout)
        pid = processes.launch(layout, bin_dir, timeout)
    if not places.read_state(layout.folder).get("complete"):
        _bootstrap(layout, passwords)
        places.update_state(layout, complete=True)
    places.claim(layout, pid)
    log.info("started the embedded PostgreSQL of %s in %.1f s (pid %d)", layout.home, time.monotonic() - began, pid)
    return _info(layout, pid)


def _initdb(layout: Layout, bin_dir: Path, password: str) -> None:
    """Make the data folder under another name and rename it: it is complete or absent.

    Every account needs a password from the first moment on.
    """
    work = Path(tempfile.mkdtemp(prefix=".initdb-", dir=layout.instance))
    for old in layout.instance.glob(".initdb-*"):
        if old != work:
            shutil.rmtree(old, ignore_errors=True)
    password_file = work / "password"
    password_file.touch(mode=0o600)
    password_file.write_text(password + "\n", encoding="utf-8")
    if layout.system_user:
        for path in (work, password_file):
            shutil.chown(path, layout.system_user, layout.system_user)
    command = [
        str(bin_dir / "initdb"),
        *("-D", str(work / "data"), "-U", places.SUPERUSER, "--auth=scram-sha-256", f"--pwfile={password_file}"),
        *("--encoding=UTF8", "--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"),
    ]
    try:
        _run(command, layout, INITDB_SECONDS)
        (work / "data").rename(layout.data_dir)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _run(command: list[str], layout: Layout, timeout: float) -> None:
    user = {"user": layout.system_user, "group": layout.system_user, "extra_groups": []} if layout.system_user else {}
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    name = Path(command[0]).name
    try:
        done = subprocess.run(  # type: ignore[call-overload]
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            cwd="/",
            env=environment,
            timeout=timeout,
            check=False,
            **user,
        )
    except subprocess.TimeoutExpired:
        raise StoreError(
            f"{name} took more than {timeout:.0f} s in {layout.instance}; is the disk that slow?"
        ) from None
    except OSError as error:
        raise StoreError(f"{name} can't be run: {error}") from error
    if done.returncode:
        tail = " | ".join(done.stderr.strip().splitlines()[-5:])
        raise StoreError(f"{name} failed in {layout.instance} with exit code {done.returncode}: {tail}")


def _write_settings(layout: Layout) -> None:
    """Settings in a file rather than on a command line; the socket folder moves with GCA_HOME."""
    settings = {
        **_SETTINGS,
        "shared_buffers": f"{_buffer_megabytes()}MB",
        "unix_socket_directories": str(layout.socket_dir),
    }
    # a list separated by commas, so its one member is quoted within
    settings["unix_socket_directories"] = '"' + settings["unix_socket_directories"].replace('"', '""') + '"'
    lines = [f"{name} = '{value.replace(chr(39), chr(39) * 2)}'" for name, value in settings.items()]
    target = layout.data_dir / "gca.conf"
    staging = layout.data_dir / ".gca.conf.new"
    staging.write_text("\n".join(lines) + "\n", encoding="utf-8")
    staging.chmod(0o600)
    if layout.system_user:
        shutil.chown(staging, layout.system_user, layout.system_user)
    staging.replace(target)
    main = layout.data_dir / "postgresql.conf"
    if "include = 'gca.conf'" not in main.read_text(encoding="utf-8"):
        with main.open("a", encoding="utf-8") as sink:
            sink.write("\ninclude = 'gca.conf'\n")


def _buffer_megabytes() -> int:
    """Memory for pages of the database: an eighth of the machine's, 128 to 2,048 MB; it is taken as it is used."""
    import psutil

    return min(max(int(psutil.virtual_memory().total / 8 / 2**20), 128), 2048)


def _bootstrap(layout: Layout, passwords: dict[str, str]) -> None:
    """Roles, the database and the vector type; every step may have been done before."""

    def open_as_superuser(database: str) -> psycopg.Connection:
        return psycopg.connect(
            make_dsn(
                host=str(layout.socket_dir),
                port=PORT,
                dbname=database,
                user=places.SUPERUSER,
                password=passwords[places.SUPERUSER],
            ),
            autocommit=True,
        )

    try:
        with open_as_superuser("postgres") as connection:
            for role in places.ROLES:
                _make_role(connection, role, passwords[role])
            if not connection.execute("select 1 from pg_database where datname = %s", [DATABASE]).fetchone():
                name = sql.Identifier(DATABASE)
                connection.execute(sql.SQL("create database {} owner gca_admin").format(name))
                connection.execute(sql.SQL("revoke all on database {} from public").format(name))
            connection.execute(
                sql.SQL("grant connect on database {} to gca_app, gca_agent").format(sql.Identifier(DATABASE))
            )
        with open_as_superuser(DATABASE) as connection:
            connection.execute("create extension if not exists vector")
            connection.execute("revoke create on schema public from public")
            connection.execute("grant usage, create on schema public to gca_admin")
    except psycopg.Error as error:
        raise StoreError(f"the embedded PostgreSQL can't be set up: {error}; its log is {layout.log}") from error


def _make_role(connection: psycopg.Connection, role: str, password: str) -> None:
    name = sql.Identifier(role)
    if not connection.execute("select 1 from pg_roles where rolname = %s", [role]).fetchone():
        connection.execute(sql.SQL("create role {} login").format(name))
    connection.execute(sql.SQL("alter role {} with login password {}").format(name, sql.Literal(password)))
    if role == "gca_agent":
        for setting, value in AGENT_SETTINGS.items():
            connection.execute(
                sql.SQL("alter role {} set {} = {}").format(name, sql.Identifier(setting), sql.Literal(value))
            )


def _drop_abandoned(layout: Layout) -> None:
    """Remove root's data folder of a GCA_HOME that was deleted; its passwords went with that."""
    if layout.instance == layout.folder or places.read_state(layout.folder) or not layout.data_dir.exists():
        return
    log.warning("GCA_HOME %s was deleted; removing the data folder it had left in %s", layout.home, layout.instance)
    processes.end_server(layout.data_dir, STOP_SECONDS)
    shutil.rmtree(layout.data_dir)


def _stop_abandoned(home: Path, timeout: float) -> bool:
    """Stop servers whose GCA_HOME was deleted."""
    found = [data for _process, data, its_home in processes.find_servers() if its_home == home]
    for data in found:
        processes.end_server(data, timeout)
    return bool(found)


def _info(layout: Layout, pid: int) -> ServerInfo:
    return ServerInfo(home=layout.home, pid=pid, data_dir=layout.data_dir, socket_dir=layout.socket_dir)


def _status(home: Path, data_dir: Path, pid: int | None) -> ServerStatus:
    import psutil

    started = None
    if pid is not None:
        try:
            started = psutil.Process(pid).create_time()
        except psutil.NoSuchProcess:
            pid = None
    return ServerStatus(
        home=home,
        home_exists=home.exists(),
        running=pid is not None,
        pid=pid,
        data_dir=data_dir,
        started_at=None if started is None else datetime.fromtimestamp(started, UTC),
        uptime_seconds=None if started is None else max(0.0, round(time.time() - started, 1)),
        size_bytes=processes.folder_size(data_dir),
    )
