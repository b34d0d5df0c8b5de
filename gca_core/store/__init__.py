"""PostgreSQL: the embedded server, connections by role, and migrations.

Import from the modules themselves: :mod:`gca_core.store.embedded`, :mod:`gca_core.store.connect`,
:mod:`gca_core.store.migrations`. Importing the package alone loads none of them.
"""
