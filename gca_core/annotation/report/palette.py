"""Colours of labels and of confidence, the same in every figure and table of a report."""

from collections.abc import Sequence

import matplotlib as mpl
from matplotlib.colors import to_hex

from gca_core.annotation.models import UNKNOWN, Annotation, Confidence

NO_LABEL = "no label"
REVIEWED = "decided by a person"
GREY = "#c9ced3"
# apart also for colour-blind readers, and in print
CONFIDENCE_COLOURS = {
    Confidence.HIGH.value: "#1b6ca8",
    Confidence.MEDIUM.value: "#e3a008",
    Confidence.LOW.value: "#b5392a",
    REVIEWED: "#6b4fa0",
    NO_LABEL: GREY,
}


def shown_label(annotation: Annotation) -> str:
    """The label as figures and tables show it: that of the vocabulary, else the short name, where there is one."""
    return annotation.vocabulary_label or annotation.common_name or annotation.primary_label


def shown_confidence(annotation: Annotation) -> str:
    """The confidence, or that a person decided."""
    return REVIEWED if annotation.override is not None else annotation.confidence.value


def label_colours(annotations: Sequence[Annotation]) -> dict[str, str]:
    """A colour per shown label, the commonest label first; grey is unknown, and colours repeat after 58."""
    sizes: dict[str, int] = {}
    for a in annotations:
        sizes[shown_label(a)] = sizes.get(shown_label(a), 0) + (a.n_cells or 0)
    named = [label for label in sorted(sizes, key=lambda label: -sizes[label]) if label != UNKNOWN]
    palette = _palette()
    colours = {label: palette[i % len(palette)] for i, label in enumerate(named)}
    return colours | {UNKNOWN: GREY, NO_LABEL: GREY}


def _palette() -> list[str]:
    pairs, *others = ([to_hex(mpl.colormaps[name](i)) for i in range(20)] for name in ("tab20", "tab20b", "tab20c"))
    # the greys of tab20 are taken by what has no label
    strong, pale = ([c for i, c in enumerate(pairs[start::2]) if i != 7] for start in (0, 1))
    return strong + pale + [colour for more in others for colour in more]
