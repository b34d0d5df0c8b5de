"""A real embedded PostgreSQL for the tests of this folder: one per test process, with a new database per module."""

import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gca_core.atlas import Atlas, IngestConfig, IngestReport, open_atlas
from gca_core.atlas.ingest import ingest
from gca_core.atlas.ingest.names import NameResolver
from gca_core.config import Settings, load_settings
from gca_core.haystack.context import HaystackContext, open_context
from gca_core.haystack.demo.kang2018 import DemoFiles, prepare_demo
from gca_core.haystack.understand import understand
from gca_core.llm.embeddings import HashedTextEmbeddings
from gca_core.store import embedded
from gca_core.store.resolve import resolve_dsn
from tests.helpers.atlas_cells import CELL_TYPES

MONOCYTES = "How would CD14+ monocytes respond to interferon beta?"


@pytest.fixture(scope="module")
def gca_home(server_home: Path) -> Path:
    """The GCA_HOME that the tests of a module share."""
    return server_home


@pytest.fixture(scope="module")
def settings(gca_home: Path) -> Settings:
    """Settings that lead to the embedded server of this test process."""
    return load_settings(home=gca_home)


@pytest.fixture(scope="module")
def embedded_dsn(settings: Settings) -> str:
    """The connection string of the role app; the schema is current."""
    return resolve_dsn(settings, "app")


@pytest.fixture(scope="module")
def admin_dsn(settings: Settings) -> str:
    """The connection string of the role admin."""
    return resolve_dsn(settings, "admin")


@pytest.fixture(scope="module")
def agent_dsn(settings: Settings) -> str:
    """The connection string of the role agent."""
    return resolve_dsn(settings, "agent")


@pytest.fixture(scope="module")
def admin_atlas(settings: Settings) -> Atlas:
    """The atlas with the right to ingest."""
    return open_atlas(settings, role="admin")


@pytest.fixture(scope="module")
def atlas(settings: Settings) -> Atlas:
    """The atlas as tasks see it."""
    return open_atlas(settings)


@pytest.fixture
def take_in(admin_atlas: Atlas) -> Callable[[IngestConfig], IngestReport]:
    """Ingest with the small cell-type table of these tests."""

    def run(config: IngestConfig) -> IngestReport:
        embeddings = HashedTextEmbeddings()
        return ingest(config, admin_atlas, embed=embeddings.embed_documents, resolver=NameResolver(CELL_TYPES.get))

    return run


@pytest.fixture
def fresh_home() -> Iterator[Path]:
    """An empty GCA_HOME of one test; a server started in it is ended."""
    home = Path(tempfile.mkdtemp(prefix="gca-"))
    yield home
    for server in embedded.status():
        if server.home == home and server.pid is not None:
            os.kill(server.pid, signal.SIGQUIT)
    (home / "postgres" / "owner.json").unlink(missing_ok=True)
    embedded.remove(home)
    shutil.rmtree(home, ignore_errors=True)


@pytest.fixture(scope="module")
def own_settings(settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return settings.model_copy(update={"results_uri": tmp_path_factory.mktemp("results").as_uri()})


@pytest.fixture(scope="module")
def context(own_settings: Settings, embedded_dsn: str) -> HaystackContext:
    return open_context(own_settings, dsn=embedded_dsn)


@pytest.fixture(scope="module")
def demo(context: HaystackContext, own_settings: Settings) -> DemoFiles:
    return prepare_demo(understand(MONOCYTES, context), context, own_settings)
