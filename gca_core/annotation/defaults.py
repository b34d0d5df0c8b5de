"""Defaults of annotation that also those know who load no science."""

from __future__ import annotations

# fewest supporting markers of a label
MIN_OVERLAP = 2
