"""The versioned prompt files, and the messages made of them; nothing that names a cluster gets in."""

import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources

from gca_core.annotation.llm.models import clean_text, is_symbol
from gca_core.annotation.models import ClusterMarkers
from gca_core.io import content_hash

PROMPT = "annotate_v1"


@dataclass(frozen=True)
class Prompts:
    """The texts of one prompt version; the version changes with their content."""

    system: str
    user: str
    repair: str
    version: str


@functools.cache
def load_prompts(name: str = PROMPT) -> Prompts:
    """Read a version of the prompts that ship with the package."""
    folder = resources.files("gca_core.annotation") / "prompts"
    texts = [(folder / f"{name}_{part}.md").read_text(encoding="utf-8") for part in ("system", "user", "repair")]
    system, user, repair = texts
    return Prompts(system, user, repair, version=f"{name}-{content_hash(texts)[:12]}")


def sent_markers(cluster: ClusterMarkers) -> tuple[str, ...]:
    """The genes of a cluster that go to a model: its ranking without repeats and without what can't be a symbol."""
    return tuple(dict.fromkeys(g.gene for g in cluster.genes if is_symbol(g.gene)))


def make_messages(
    markers: Mapping[str, Sequence[str]], *, species: str, tissue: str | None, prompts: Prompts
) -> list[tuple[str, str]]:
    """Role and text pairs that ask for the cell types of clusters.

    Args:
        markers: genes by the opaque id of their cluster.
    """
    data = {
        "species": species,
        "tissue": clean_text(tissue, 100) if tissue else "not given",
        "clusters": [{"id": identifier, "markers": list(genes)} for identifier, genes in markers.items()],
    }
    return [("system", prompts.system), ("human", prompts.user.replace("{data}", json.dumps(data, indent=1)))]
