"""The dashboard: an annotated file in the browser, and decisions of people into it."""
