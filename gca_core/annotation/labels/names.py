"""Short names of cell types, as figures and tables of papers write them."""

import csv
import functools
from importlib import resources

from gca_core.knowledge.bundled.ontology import load_ontology


def common_name(ontology_id: str | None) -> str | None:
    """The short name of a Cell Ontology term, such as ``CD4 T cell`` for ``CD4-positive, alpha-beta T cell``.

    Terms whose label is what the field writes have that label. None for no term, or one that the ontology lacks.
    """
    if ontology_id is None:
        return None
    ontology = load_ontology()
    return common_names().get(ontology_id, ontology.label(ontology_id) if ontology_id in ontology else None)


@functools.cache
def common_names() -> dict[str, str]:
    """Term to short name, where it differs from the label; compiled by this project from the field's general usage."""
    text = (resources.files("gca_core.annotation") / "data" / "common_names.tsv").read_text(encoding="utf-8")
    return {row["ontology_id"]: row["common_name"] for row in csv.DictReader(text.splitlines(), delimiter="\t")}
