"""Expression matrices: what kind they are, normalisation, group statistics, comparison and ranking.

Import from the modules themselves; only :mod:`gca_core.matrix.ranking` loads scanpy.
"""
