"""A job's files: what lies on this machine goes to a bucket for the job, and its outputs come back."""

import shutil
from collections.abc import Iterable

from gca_core import io
from gca_core.errors import ConfigurationError
from gca_core.io import PathInput, as_path, as_uri, is_local, join_uri, safe_name

FOLDER = "batch-io"


class Staging:
    """Places for the files of one job; the same for whoever asks again, in whatever process.

    A URI that jobs can read stays what it is.

    Args:
        staging_uri: folder that both sides reach, ``gs://``.
        key: identity of the job.
    """

    def __init__(self, staging_uri: PathInput, key: str) -> None:
        self.uri = join_uri(staging_uri, FOLDER, safe_name(key))

    def place(self, uri: PathInput) -> str:
        """Where the job reads or writes what belongs at ``uri``."""
        path = as_path(uri)
        if not is_local(path):
            return as_uri(uri)
        # what lies side by side stays so, and files of one name don't meet
        return join_uri(self.uri, io.sha256_bytes(as_uri(path.parent).encode())[:12], safe_name(path.name))

    def send(self, uris: Iterable[PathInput]) -> dict[str, str]:
        """Copy files and folders of this machine to their places; returns the place of each URI."""
        places = {str(uri): self.place(uri) for uri in uris}
        for uri, place in places.items():
            if place != as_uri(uri):
                copy(uri, place)
        return places

    def fetch(self, uris: Iterable[PathInput]) -> None:
        """Bring outputs to where they belong; one that the job did not write is left out."""
        for uri in uris:
            place = self.place(uri)
            if place != as_uri(uri) and as_path(place).exists():
                copy(place, uri)

    def remove(self) -> None:
        """Remove the job's folder; only once no job may read it any more."""
        folder = as_path(self.uri)
        with io.reaching(self.uri):
            if folder.exists():
                folder.fs.rm(folder.path, recursive=True)


def copy(source: PathInput, target: PathInput) -> None:
    """Copy a file or folder; the target is whole or as it was."""
    with io.local_copy(source, what="input") as local, io.staged(target) as temporary:
        if local.is_dir():
            shutil.copytree(local, temporary)
        else:
            shutil.copyfile(local, temporary)


def require_reachable(staging_uri: PathInput | None, uris: Iterable[PathInput]) -> None:
    """Refuse files of this machine without a place to stage them.

    Raises:
        ConfigurationError: names the first.
    """
    if staging_uri is not None and not is_local(as_path(staging_uri)):
        return
    for uri in uris:
        if is_local(as_path(uri)):
            raise ConfigurationError(
                f"{str(uri)!r} lies on this machine, where a Batch job can't read it; put it into a bucket, or name "
                "one as staging_uri (gs://...)"
            )
