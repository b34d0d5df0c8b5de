"""Finding, starting and ending the embedded server's process."""

import logging
import os
import signal
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

import psutil

from gca_core.errors import StoreError
from gca_core.store.layout import Layout, as_server_user, read_plain, server_uid

log = logging.getLogger(__name__)

HOME_SETTING = "gca.home="
_POLL_SECONDS = 0.02
_APPEAR_SECONDS = 2.0
# the shell ends at once and the server goes on as a child of init, in a session of its own: no signal
# to the starter's process group reaches it, and nobody who walks the starter's children finds it
_DETACH = '"$0" "$@" &'


def find_servers() -> list[tuple[psutil.Process, Path, Path]]:
    """Every embedded server of this user on this machine: process, data folder, GCA_HOME."""
    found = [(process, _folders(process)) for process in psutil.process_iter()]
    servers = [(process, *folders) for process, folders in found if folders is not None]
    return sorted(servers, key=lambda item: item[0].pid)


def running_pid(data_dir: Path) -> int | None:
    """The pid of the server that runs on this data folder, by its own record and a live process."""
    pid, _ = _postmaster(data_dir)
    try:
        folders = None if pid is None else _folders(psutil.Process(pid))
    except psutil.NoSuchProcess:
        return None
    return pid if folders is not None and folders[0] == data_dir else None


def _folders(process: psutil.Process) -> tuple[Path, Path] | None:
    """Data folder and GCA_HOME of a process that is an embedded server of this user."""
    try:
        if process.name() != "postgres" or process.status() == psutil.STATUS_ZOMBIE:
            return None
        command = process.cmdline()
        if process.uids().effective != server_uid():
            return None
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return None
    home = next((arg.removeprefix(HOME_SETTING) for arg in command if arg.startswith(HOME_SETTING)), None)
    if home is None or "-D" not in command:
        return None
    return Path(command[command.index("-D") + 1]), Path(home)


def clear_leftovers(layout: Layout) -> None:
    """End a server whose data folder was deleted under it, and drop the lock files of one that died.

    PostgreSQL itself refuses to start when the number in a stale lock file is some other living
    process, as happens in containers. The files go only when no process works in the data folder.
    """
    living = running_pid(layout.data_dir)
    for process, folder, _home in find_servers():
        if folder == layout.data_dir and process.pid != living:
            log.warning("ending pid %d, a server whose data folder %s was deleted", process.pid, folder)
            _end(process, signal.SIGQUIT, 10.0)
    deadline = time.monotonic() + 10.0
    # the backends of a killed server notice within moments
    while living is None and _processes_in(layout.data_dir) and time.monotonic() < deadline:
        time.sleep(_POLL_SECONDS)
    if living is None and not _processes_in(layout.data_dir):
        for path in (layout.data_dir / "postmaster.pid", *layout.socket_dir.glob(".s.PGSQL.*")):
            path.unlink(missing_ok=True)


def launch(layout: Layout, bin_dir: Path, settings: Mapping[str, str], timeout: float) -> int:
    """Start the server detached from this process and wait until it takes connections.

    Raises:
        StoreError: it ended, or isn't ready in time; says what its log says.
    """
    offset = _rotate_log(layout.log)
    command = ["/bin/sh", "-c", _DETACH, str(bin_dir / "postgres"), "-D", str(layout.data_dir)]
    command += ["-c", f"{HOME_SETTING}{layout.home}"]
    for name, value in settings.items():
        command += ["-c", f"{name}={value}"]
    with layout.log.open("ab") as sink:
        subprocess.run(
            command,
            stdout=sink,
            stderr=sink,
            start_new_session=True,
            umask=0o077,
            check=True,
            **as_server_user(layout),
        )
    return _wait_ready(layout, offset, timeout)


def end_server(data_dir: Path, timeout: float) -> bool:
    """Stop the server of a data folder (fast shutdown) and wait until it is gone.

    Returns:
        Whether there was one.

    Raises:
        StoreError: it is still there after ``timeout`` seconds.
    """
    found = [process for process, folder, _home in find_servers() if folder == data_dir]
    for process in found:
        _end(process, signal.SIGINT, timeout)
    return bool(found)


def folder_size(folder: Path) -> int:
    """Bytes of the files in a folder; files that vanish meanwhile don't count."""
    total = 0
    for root, _dirs, files in os.walk(folder):
        for name in files:
            try:
                total += (Path(root) / name).lstat().st_size
            except OSError:
                continue
    return total


def _wait_ready(layout: Layout, offset: int, timeout: float) -> int:
    deadline = time.monotonic() + timeout
    started = time.monotonic()
    while time.monotonic() < deadline:
        pid, state = _postmaster(layout.data_dir)
        if pid is not None and state == "ready" and running_pid(layout.data_dir) == pid:
            return pid
        # the process needs a moment to appear
        if time.monotonic() - started > _APPEAR_SECONDS and not _is_alive(layout.data_dir):
            raise StoreError(f"the embedded PostgreSQL ended while starting: {_log_tail(layout.log, offset)}")
        time.sleep(_POLL_SECONDS)
    raise StoreError(
        f"the embedded PostgreSQL is not ready after {timeout:.0f} s; it may still be recovering on a slow disk: wait, "
        f"then repeat the command. its log {layout.log} ends with: {_log_tail(layout.log, offset)}"
    )


def _is_alive(data_dir: Path) -> bool:
    return any(folder == data_dir for _process, folder, _home in find_servers())


def _postmaster(data_dir: Path) -> tuple[int | None, str | None]:
    """Pid and state from the server's own record; lines 1 and 8 of postmaster.pid."""
    try:
        lines = (read_plain(data_dir / "postmaster.pid", server_uid()) or "").splitlines()
        return int(lines[0]), lines[7].strip() if len(lines) > 7 else None
    except (OSError, ValueError, IndexError):
        return None, None


def _processes_in(folder: Path) -> list[psutil.Process]:
    """PostgreSQL processes that work in a folder, backends of a killed server among them."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.name() == "postgres" and process.cwd() == str(folder):
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found


def _end(process: psutil.Process, sign: signal.Signals, timeout: float) -> None:
    deadline = time.monotonic() + timeout
    try:
        process.send_signal(sign)
        while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
            if time.monotonic() > deadline:
                raise StoreError(
                    f"the embedded PostgreSQL (pid {process.pid}) is still stopping after {timeout:.0f} s; "
                    "wait and repeat the command, or look for a client that hangs"
                )
            time.sleep(_POLL_SECONDS)
    except psutil.NoSuchProcess:
        return


def _rotate_log(path: Path, limit: int = 5_000_000) -> int:
    """Keep the log small; returns where the next start's lines begin."""
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        return 0
    if size <= limit:
        return size
    path.replace(path.with_suffix(".log.1"))
    return 0


def _log_tail(path: Path, offset: int, lines: int = 5) -> str:
    try:
        with path.open("rb") as source:
            source.seek(offset)
            text = source.read()[-4000:].decode("utf-8", "replace")
    except OSError:
        return "(no log)"
    return " | ".join(text.strip().splitlines()[-lines:]) or "(empty log)"
