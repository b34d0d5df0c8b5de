"""Every route of the page's REST API, asked for whatever its schema allows and forbids, by Schemathesis."""

from collections.abc import Iterator
from copy import copy
from itertools import count
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, assume, given, settings
from hypothesis.strategies import one_of
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.python import asgi
from schemathesis.specs.openapi.checks import positive_data_acceptance

from tests.helpers.atlas_cells import ingest_config, make_cells
from tests.helpers.page_api import credentials, mine, page_home, server, store

__all__ = ["mine", "page_home", "server", "store"]
pytestmark = pytest.mark.slow
TRIES = settings(max_examples=15, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
numbers = count()


@pytest.fixture(scope="module")
def client(server: Any, admin_atlas: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A client of the API server, whose atlas holds a few cells."""
    from gca_core.atlas.ingest import ingest
    from gca_core.atlas.ingest.names import NameResolver
    from gca_core.llm.embeddings import HashedTextEmbeddings
    from tests.helpers.atlas_cells import CELL_TYPES

    cells = tmp_path_factory.mktemp("cells") / "cells.h5ad"
    make_cells().write_h5ad(cells)
    resolver = NameResolver(CELL_TYPES.get)
    ingest(ingest_config(cells, "mine"), admin_atlas, embed=HashedTextEmbeddings().embed_documents, resolver=resolver)
    with asgi.get_client(server) as found:
        yield found


def somebody(role: str) -> dict[str, str]:
    """The headers of a person who was not here before, so that none asks too often."""
    return credentials(f"person-{next(numbers)}", role)


@pytest.fixture(scope="module")
def api_schema(client: Any, server: Any) -> Any:
    return schemathesis.openapi.from_asgi("/gca/api/openapi.json", server, headers=somebody("ADMIN"))


def try_all(operation: Any, client: Any, run_id: str, roles: list[str], accept: str = "*/*", **checks: Any) -> None:
    """Ask a route for what its schema allows and forbids, as people in several roles; also of a run that is there."""
    modes = [operation.as_strategy(generation_mode=mode) for mode in GenerationMode]

    @TRIES
    @given(case=one_of(modes))
    def ask(case: Any) -> None:
        # Starlette leads no path with a line end to a mounted app
        assume(not any("\n" in str(part) for part in case.path_parameters.values()))
        for role in roles:
            case.call_and_validate(session=client, headers=somebody(role) | {"Accept": accept}, **checks)
        if "run_id" in case.path_parameters:
            case.path_parameters["run_id"] = run_id
            case.call_and_validate(session=client, headers=somebody("ADMIN"), **checks)

    ask()


def test_answers_are_as_the_schema_says_and_none_is_an_error_of_the_server(
    api_schema: Any, client: Any, mine: str, subtests: pytest.Subtests
) -> None:
    for found in api_schema.get_all_operations():
        operation = found.ok()
        # what is no question fits the schema too
        excluded = [positive_data_acceptance] if operation.path.endswith("/prompts") else []
        with subtests.test(operation.label):
            try_all(operation, client, mine, ["ADMIN", "VIEWER"], excluded_checks=excluded)


def test_no_page_is_an_error_of_the_server(server: Any, client: Any, mine: str, subtests: pytest.Subtests) -> None:
    """What is for people stands in no schema; one is made of the routes."""
    from fastapi.openapi.utils import get_openapi

    from airflow_provider_gca.plugin import page
    from airflow_provider_gca.plugin.plugin import PREFIX

    routes = [copy(route) for route in page.router.routes]
    for route in routes:
        route.include_in_schema = True
    made = get_openapi(title="pages", version="1", routes=routes, servers=[{"url": PREFIX}])
    schema = schemathesis.openapi.from_dict(made)
    schema.app = server
    for found in schema.get_all_operations():
        operation = found.ok()
        with subtests.test(operation.label):
            try_all(operation, client, mine, ["ADMIN"], checks=[not_a_server_error], accept="text/html")
