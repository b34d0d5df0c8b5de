"""Expression matrices: what kind they are, normalisation, group statistics, comparison and ranking.

Import from the modules themselves; none loads scanpy by being imported.
"""
