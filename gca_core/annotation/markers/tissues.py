"""The names under which the marker database files tissues, and which tissues hold the cell types of others."""

from collections.abc import Sequence
from difflib import get_close_matches

from gca_core.annotation.markers.database import ANY_TISSUE, CellTypeMarkers
from gca_core.errors import ConfigurationError

_TISSUES = {
    "pbmc": "blood",
    "peripheral blood": "blood",
    "whole blood": "blood",
    "lymph node": "lymphoid",
    "tonsil": "lymphoid",
    "islet": "pancreas",
    "pancreatic islet": "pancreas",
    "gut": "intestine",
    "cortex": "brain",
    "motor cortex": "brain",
    "cerebellum": "brain",
    "hippocampus": "brain",
    "skeletal muscle": "muscle",
    "adipose tissue": "adipose",
    "fat": "adipose",
    "retina": "eye",
    "cornea": "eye",
    "trachea": "airway",
    "bronchus": "airway",
    "endometrium": "uterus",
    "adrenal": "adrenal gland",
    "artery": "blood vessel",
    "aorta": "blood vessel",
}
# tissues that hold the cell types of others too
_WITHIN = {
    "blood": ("lymphoid",),
    "bone marrow": ("blood", "lymphoid"),
    "spleen": ("blood", "lymphoid"),
    "thymus": ("lymphoid",),
    "lymphoid": ("blood",),
    "lung": ("airway",),
    "airway": ("lung",),
    "nose": ("airway",),
    "colon": ("intestine",),
    "small intestine": ("intestine",),
    "intestine": ("colon", "small intestine"),
    "heart": ("blood vessel",),
    "muscle": ("tendon",),
    "bone": ("cartilage", "bone marrow"),
    "joint": ("cartilage", "bone", "tendon"),
    "spinal cord": ("brain", "nerve"),
    "tongue": ("oral mucosa",),
}


def tissue_name(tissue: str | None) -> str | None:
    """The name under which the marker database files a tissue."""
    if tissue is None:
        return None
    folded = " ".join(tissue.casefold().replace("_", " ").split())
    return _TISSUES.get(folded, folded)


def near_tissues(tissue: str | None) -> frozenset[str]:
    """The tissue, and those that it holds the cell types of."""
    name = tissue_name(tissue)
    return frozenset() if name is None else frozenset({name, *_WITHIN.get(name, ())})


def found_in(types: Sequence[CellTypeMarkers], tissue: str | None) -> list[bool]:
    """Whether each type is known in the tissue; all are where none is named.

    Raises:
        ConfigurationError: the marker database doesn't know the tissue.
    """
    name = tissue_name(tissue)
    if name is None:
        return [True] * len(types)
    known = {t for cell_type in types for t in cell_type.tissues}
    named = ", ".join(sorted(known - {ANY_TISSUE}))
    if name not in known:
        close = get_close_matches(name, sorted({*known, *_TISSUES} - {ANY_TISSUE}), n=1)
        meant = f". did you mean {close[0]!r}?" if close else ";"
        raise ConfigurationError(
            f"the tissue {tissue!r} is not in the marker database{meant} it knows {named or 'no tissues'}. "
            "leave the tissue out to consider every cell type"
        )
    near = near_tissues(tissue) | {ANY_TISSUE}
    return [bool(near & t.tissues) for t in types]
