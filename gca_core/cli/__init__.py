"""The ``gca`` command."""
