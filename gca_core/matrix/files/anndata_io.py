"""The parts of anndata that read and write single elements of a file, from where its version has them."""

try:
    from anndata.io import read_elem, sparse_dataset, write_elem
except ImportError:
    # anndata 0.10
    from anndata.experimental import read_elem, sparse_dataset, write_elem

__all__ = ["read_elem", "sparse_dataset", "write_elem"]
