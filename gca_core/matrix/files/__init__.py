"""Files of cells: what is dangerous in them, loom, and where versions of anndata have what reads them."""
