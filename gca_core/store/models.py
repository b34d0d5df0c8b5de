"""What the store says about a server."""

from datetime import datetime
from pathlib import Path
from typing import Literal

from pydantic import BaseModel

Role = Literal["app", "agent", "admin"]
"""app reads the atlas and writes runs; agent reads only; admin migrates and ingests."""

DATABASE = "gca"
PORT = 5432
AGENT_SETTINGS = {
    "statement_timeout": "30s",
    "idle_in_transaction_session_timeout": "60s",
    "work_mem": "256MB",
    "default_transaction_read_only": "on",
}
# what a session can't change for itself
AGENT_WALLS = {"temp_file_limit": "2GB"}
AGENT_CONNECTIONS = 32
ROLE_NAMES: dict[Role, str] = {"app": "gca_app", "agent": "gca_agent", "admin": "gca_admin"}


class ServerInfo(BaseModel, frozen=True):
    """A running embedded server; holds no password."""

    home: Path
    pid: int
    data_dir: Path
    socket_dir: Path
    port: int = PORT

    def dsn(self, role: Role = "app") -> str:
        """The connection string of a role, with its password: keep it out of logs.

        Raises:
            StoreError: the password file can't be read.
        """
        from gca_core.store.layout import read_credentials
        from gca_core.store.redact import make_dsn

        passwords = read_credentials(self.home)
        name = ROLE_NAMES[role]
        return make_dsn(host=str(self.socket_dir), port=self.port, dbname=DATABASE, user=name, password=passwords[name])


class ServerStatus(BaseModel, frozen=True):
    """An embedded server of this user, as its process shows it."""

    home: Path
    home_exists: bool
    running: bool
    pid: int | None = None
    data_dir: Path | None = None
    started_at: datetime | None = None
    uptime_seconds: float | None = None
    size_bytes: int | None = None
