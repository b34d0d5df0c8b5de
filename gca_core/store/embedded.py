"""The embedded PostgreSQL: one server per GCA_HOME, started on first use, stopped on request only."""

import logging
import shutil
import subprocess
import tempfile
import time
from contextlib import nullcontext
from datetime import UTC, datetime
from pathlib import Path

import psycopg
from psycopg import sql

from gca_core.errors import StoreError
from gca_core.store import layout as places
from gca_core.store import processes
from gca_core.store.connect import connect
from gca_core.store.layout import Layout
from gca_core.store.migrations import limit_agent
from gca_core.store.models import DATABASE, PORT, ServerInfo, ServerStatus
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
# locks by number, which could fill the table of locks, and large objects, which read-only logins may write
_OWNERS_FUNCTIONS = """
do $$ declare f regprocedure; begin
  for f in select oid from pg_proc where pronamespace = 'pg_catalog'::regnamespace
    and (proname ~ '^(lo_|pg_(try_)?advisory_)' or proname in ('loread', 'lowrite'))
  loop
    execute format('revoke execute on function %s from public', f);
    execute format('grant execute on function %s to gca_admin', f);
  end loop;
end $$
"""


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
        for left in layout.folder.glob(".*.json-*"):
            left.unlink(missing_ok=True)
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
    layout = places.locate(home)
    # of a GCA_HOME that was deleted there is nothing to lock
    with places.exclusive(layout.folder) if layout.folder.exists() else nullcontext():
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
    layout = places.locate(home)
    found = layout.data_dir.exists()
    for path in {layout.socket_dir, layout.instance, layout.folder}:
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
    _refuse_damaged(layout)
    if not layout.holds_data:
        if places.read_state(layout.folder).get("complete"):
            log.warning("the data folder %s is gone; starting with an empty database", layout.data_dir)
        places.update_state(layout, complete=False)
        log.info("setting up an embedded PostgreSQL in %s", layout.data_dir)
        _initdb(layout, bin_dir, passwords[places.SUPERUSER])
    pid, launched = processes.running_pid(layout.data_dir), False
    if pid is None:
        processes.clear_leftovers(layout)
        pid, launched = processes.launch(layout, bin_dir, _settings(layout), timeout), True
    if launched or not places.read_state(layout.folder).get("complete"):
        # at each start: a role may change its own password and settings
        _bootstrap(layout, passwords)
        places.update_state(layout, complete=True)
    places.claim(layout, pid)
    log.info("started the embedded PostgreSQL of %s in %.1f s (pid %d)", layout.home, time.monotonic() - began, pid)
    return _info(layout, pid)


def _refuse_damaged(layout: Layout) -> None:
    if layout.system_user and layout.data_dir.is_symlink():
        raise StoreError(f"{layout.data_dir} is a link, which root does not follow; put the folder itself there")
    if layout.holds_data and not (layout.data_dir / "PG_VERSION").is_file():
        raise StoreError(
            f"the data folder {layout.data_dir} has lost its file PG_VERSION, so it is damaged or isn't PostgreSQL's; "
            "restore the folder from a backup, or run 'gca db remove' to begin with an empty database"
        )


def _initdb(layout: Layout, bin_dir: Path, password: str) -> None:
    """Make the data folder under another name and rename it: it is complete or absent.

    Every account needs a password from the first moment on.
    """
    for old in layout.instance.glob(".initdb-*"):
        shutil.rmtree(old, ignore_errors=True)
    work = Path(tempfile.mkdtemp(prefix=".initdb-", dir=layout.instance))
    password_file = work / "password"
    password_file.touch(mode=0o600)
    password_file.write_text(password + "\n", encoding="utf-8")
    if layout.system_user:
        # the folder last: until then nobody else can put a link into it
        for path in (password_file, work):
            shutil.chown(path, layout.system_user, layout.system_user)
    command = [
        str(bin_dir / "initdb"),
        *("-D", str(work / "data"), "-U", places.SUPERUSER, "--auth=scram-sha-256", f"--pwfile={password_file}"),
        *("--encoding=UTF8", "--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"),
    ]
    try:
        _run(command, layout, INITDB_SECONDS)
        (work / "data").rename(layout.data_dir)
        _refuse_damaged(layout)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _run(command: list[str], layout: Layout, timeout: float) -> None:
    name = Path(command[0]).name
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=timeout, check=False, **places.as_server_user(layout)
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


def _settings(layout: Layout) -> dict[str, str]:
    """Settings on the server's command line: no file in its folder is written."""
    import psutil

    # an eighth of the machine's memory for pages of the database; it is taken as it is used
    buffers = min(max(int(psutil.virtual_memory().total / 8 / 2**20), 128), 2048)
    # a list separated by commas, so its one member is quoted within
    socket_dir = '"' + str(layout.socket_dir).replace('"', '""') + '"'
    return {**_SETTINGS, "shared_buffers": f"{buffers}MB", "unix_socket_directories": socket_dir}


def _bootstrap(layout: Layout, passwords: dict[str, str]) -> None:
    """Roles, the database and the vector type; every step may have been done before."""

    login = {"user": places.SUPERUSER, "password": passwords[places.SUPERUSER], "port": str(PORT)}
    address = {"host": str(layout.socket_dir), **login}
    name = sql.Identifier(DATABASE)
    try:
        with connect(make_dsn(dbname="postgres", **address), autocommit=True) as connection:
            for role in places.ROLES:
                there = connection.execute("select 1 from pg_roles where rolname = %s", [role]).fetchone()
                change = sql.SQL("alter role {} login password {}" if there else "create role {} login password {}")
                connection.execute(change.format(sql.Identifier(role), sql.Literal(passwords[role])))
            if not connection.execute("select 1 from pg_database where datname = %s", [DATABASE]).fetchone():
                connection.execute(sql.SQL("create database {} owner gca_admin").format(name))
                connection.execute(sql.SQL("revoke all on database {} from public").format(name))
            connection.execute(sql.SQL("grant connect on database {} to gca_app, gca_agent").format(name))
        with connect(make_dsn(dbname=DATABASE, **address), autocommit=True) as connection:
            connection.execute("create extension if not exists vector")
            connection.execute("revoke create on schema public from public")
            connection.execute("grant usage, create on schema public to gca_admin")
            connection.execute(_OWNERS_FUNCTIONS)
            limit_agent(connection)
    except psycopg.Error as error:
        raise StoreError(f"the embedded PostgreSQL can't be set up: {error}; its log is {layout.log}") from error


def _drop_abandoned(layout: Layout) -> None:
    """Remove root's data folder of a GCA_HOME that was deleted; its passwords went with that."""
    records = ("server.json", "credentials.json")
    known = layout.instance == layout.folder or any((layout.folder / name).exists() for name in records)
    if known or not layout.data_dir.exists():
        return
    log.warning("GCA_HOME %s was deleted; removing the data folder it had left in %s", layout.home, layout.instance)
    processes.end_server(layout.data_dir, STOP_SECONDS)
    shutil.rmtree(layout.data_dir)


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
