"""Google Batch through an Airflow connection."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from airflow.sdk import BaseHook

from gca_core.errors import ConfigurationError

if TYPE_CHECKING:
    from airflow.providers.google.common.hooks.base_google import GoogleBaseHook
    from google.cloud.batch_v1 import BatchServiceAsyncClient, BatchServiceClient

    from gca_core.batch.service import BatchService

LOOPBACK = ("127.0.0.1", "localhost", "::1")
TRANSPORTS = ("rest", "grpc")


class StackBatchHook(BaseHook):
    """Makes Google's clients of Batch, with the credentials of a ``google_cloud_platform`` connection.

    The connection's extra may say, beside what the Google provider reads there, ``api_endpoint``,
    ``api_endpoint_grpc`` where gRPC has another one, and ``transport``. An ``http://`` endpoint has to be of this
    machine, and gets no credentials.

    Args:
        gcp_conn_id: the connection's id.
        impersonation_chain: service accounts to impersonate, as for the Google provider's hooks.
        api_endpoint: host, or URL, of the API instead of the global one.
        transport: of the synchronous client, ``rest`` or ``grpc``; the asynchronous one speaks gRPC only.
    """

    conn_name_attr = "gcp_conn_id"
    default_conn_name = "google_cloud_default"

    def __init__(
        self,
        gcp_conn_id: str = default_conn_name,
        impersonation_chain: str | list[str] | None = None,
        api_endpoint: str | None = None,
        transport: str | None = None,
    ) -> None:
        super().__init__()
        self.gcp_conn_id = gcp_conn_id
        self.impersonation_chain = impersonation_chain
        self.api_endpoint = api_endpoint
        self.transport = transport
        self._google: GoogleBaseHook | None = None

    @property
    def project_id(self) -> str | None:
        """The connection's project, or that of its credentials."""
        return self.google.project_id or None

    @property
    def google(self) -> GoogleBaseHook:
        """The Google provider's hook, which knows the credentials.

        Raises:
            ConfigurationError: the Google provider is not installed.
        """
        if self._google is None:
            self._google = google_hook(self.gcp_conn_id, self.impersonation_chain)
        return self._google

    def get_conn(self) -> BatchServiceClient:
        """The synchronous client.

        Raises:
            ConfigurationError: the transport is unknown, or the endpoint would take credentials in the clear.
        """
        from google.cloud import batch_v1

        transport = self.transport or self._extra("transport") or "rest"
        if transport not in TRANSPORTS:
            raise ConfigurationError(f"the transport {transport!r} is unknown; use one of {', '.join(TRANSPORTS)}")
        endpoint = self._endpoint(grpc=transport == "grpc")
        if not _is_plain(endpoint):
            return batch_v1.BatchServiceClient(
                credentials=self.google.get_credentials(), transport=transport, client_options=_options(endpoint)
            )
        from google.auth.credentials import AnonymousCredentials

        if transport == "rest":
            return batch_v1.BatchServiceClient(
                credentials=AnonymousCredentials(),  # type: ignore[no-untyped-call,unused-ignore]
                transport="rest",
                client_options=_options(endpoint),
            )
        import grpc
        from google.cloud.batch_v1.services.batch_service.transports import BatchServiceGrpcTransport

        channel = grpc.insecure_channel(urlsplit(endpoint).netloc)
        return batch_v1.BatchServiceClient(transport=BatchServiceGrpcTransport(channel=channel))

    async def get_async_conn(self) -> BatchServiceAsyncClient:
        """The asynchronous client; connection and credentials are read in a thread, so that nothing blocks the loop."""
        from asgiref.sync import sync_to_async
        from google.cloud import batch_v1

        endpoint = await sync_to_async(self._endpoint)(grpc=True)
        if not _is_plain(endpoint):
            credentials = await sync_to_async(lambda: self.google.get_credentials())()
            return batch_v1.BatchServiceAsyncClient(credentials=credentials, client_options=_options(endpoint))
        import grpc.aio
        from google.cloud.batch_v1.services.batch_service.transports import BatchServiceGrpcAsyncIOTransport

        channel = grpc.aio.insecure_channel(urlsplit(endpoint).netloc)
        return batch_v1.BatchServiceAsyncClient(transport=BatchServiceGrpcAsyncIOTransport(channel=channel))

    def service(self) -> BatchService:
        """The jobs, by the synchronous client."""
        from gca_core.batch.service import BatchService

        return BatchService(self.get_conn())

    def _extra(self, name: str) -> Any:
        return self.google.extras.get(name)

    def _endpoint(self, *, grpc: bool) -> str:
        """The endpoint, empty for the global one."""
        found = (self._extra("api_endpoint_grpc") if grpc else None) or self.api_endpoint or self._extra("api_endpoint")
        endpoint = str(found or "")
        if _is_plain(endpoint) and urlsplit(endpoint).hostname not in LOOPBACK:
            raise ConfigurationError(
                f"the endpoint {endpoint!r} is not encrypted, which is for a server of this machine alone; "
                "write https:// or the host alone"
            )
        return endpoint


def google_hook(gcp_conn_id: str, impersonation_chain: str | list[str] | None = None) -> GoogleBaseHook:
    """The Google provider's hook of a connection.

    Raises:
        ConfigurationError: the Google provider is not installed.
    """
    try:
        from airflow.providers.google.common.hooks.base_google import GoogleBaseHook
    except ImportError as error:
        raise ConfigurationError(
            f"the connection {gcp_conn_id!r} needs Airflow's Google provider ({error}); "
            "install it with: pip install 'airflow-provider-gca[google]'"
        ) from error
    return GoogleBaseHook(gcp_conn_id=gcp_conn_id, impersonation_chain=impersonation_chain)


def _is_plain(endpoint: str) -> bool:
    return endpoint.startswith("http://")


def _options(endpoint: str) -> Any:
    from google.api_core.client_options import ClientOptions

    return ClientOptions(api_endpoint=endpoint.removeprefix("https://") or None)
