"""The script that Streamlit runs: ``app.py REPORT REVIEWER``."""

import sys

from gca_core.annotation.dashboard.page import show

if __name__ == "__main__":
    show(*sys.argv[1:3])
