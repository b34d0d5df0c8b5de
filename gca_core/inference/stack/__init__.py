"""The backend ``stack``: Arc Institute's STACK through the package arc-stack, whose licence is non-commercial."""
