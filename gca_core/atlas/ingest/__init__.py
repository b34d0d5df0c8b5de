"""Taking h5ad files into the atlas: ``from gca_core.atlas.ingest import ingest``."""

from gca_core.atlas.ingest.run import ingest

__all__ = ["ingest"]
