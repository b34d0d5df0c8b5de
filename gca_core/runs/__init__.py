"""Run state and run records.

Import from the modules themselves: :mod:`gca_core.runs.models`, :mod:`gca_core.runs.state`,
:mod:`gca_core.runs.store`. Only the last one loads the PostgreSQL driver.
"""
