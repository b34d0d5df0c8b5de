"""Agreement of an annotation with labels that are known, judged on the Cell Ontology."""

from collections.abc import Callable, Mapping

import pandas as pd

from gca_core.annotation.models import Agreement, LabelAgreement
from gca_core.annotation.scoring.parameters import CLOSE
from gca_core.errors import DataValidationError
from gca_core.knowledge.bundled.ontology import CellOntology


def measure_agreement(
    predicted: pd.Series, known: pd.Series, ontology: CellOntology, *, clusters: pd.Series | None = None
) -> Agreement:
    """Compare predicted terms with known free-text labels, cell by cell and cluster by cluster.

    Args:
        predicted: Cell Ontology id of each cell; missing where unknown, which counts as disagreement.
        known: label of each cell as its authors wrote it; its name is the column's.
        ontology: resolves the known labels.
        clusters: cluster of each cell; None counts every predicted term as one cluster.

    Raises:
        DataValidationError: none of the known labels means a Cell Ontology term.
    """
    names = known.astype(object)
    terms = {name: ontology.resolve(str(name)) for name in names.dropna().unique()}
    frame = pd.DataFrame({"known": names, "predicted": predicted.astype(object), "term": names.map(terms)})
    frame["cluster"] = (predicted if clusters is None else clusters).astype(object)
    unresolved = tuple(sorted(str(name) for name, term in terms.items() if term is None))
    frame = frame.dropna(subset=["term"])
    if frame.empty:
        raise DataValidationError(
            f"no label of the column {known.name!r} is a Cell Ontology name: "
            f"{', '.join(unresolved[:5]) or 'it is empty'}; use Cell Ontology labels or ids, or the field's usual names"
        )
    frame["exact"] = frame["predicted"] == frame["term"]
    frame["related"] = _related(frame, ontology)
    frame["close"] = frame["related"] | _close(frame, ontology)
    by_cluster = _by_cluster(frame, ontology)
    return Agreement(
        column=str(known.name),
        n_cells=len(frame),
        n_clusters=len(by_cluster),
        exact=_mean(frame["exact"]),
        related=_mean(frame["related"]),
        close=_mean(frame["close"]),
        clusters_exact=_mean(by_cluster["exact"]),
        clusters_related=_mean(by_cluster["related"]),
        unresolved=unresolved,
        n_left_out=len(names) - len(frame),
        by_label=_by_label(frame, terms),
    )


def _by_cluster(frame: pd.DataFrame, ontology: CellOntology) -> pd.DataFrame:
    """One row per cluster with its commonest known term, ties by term, and its predicted term."""
    rows = []
    for _, cells in frame.dropna(subset=["cluster"]).groupby("cluster", sort=False):
        counts = cells["term"].value_counts()
        rows.append({"predicted": cells["predicted"].iloc[0], "term": min(counts.index[counts == counts.max()])})
    found = pd.DataFrame(rows, columns=["predicted", "term"])
    return found.assign(exact=found["predicted"] == found["term"], related=_related(found, ontology))


def _by_label(frame: pd.DataFrame, terms: Mapping[object, str | None]) -> tuple[LabelAgreement, ...]:
    return tuple(
        LabelAgreement(
            label=str(name),
            ontology_id=terms[name],
            n_cells=len(cells),
            exact=_mean(cells["exact"]),
            related=_mean(cells["related"]),
            close=_mean(cells["close"]),
        )
        for name, cells in sorted(frame.groupby("known", sort=False), key=lambda item: str(item[0]))
    )


def _related(frame: pd.DataFrame, ontology: CellOntology) -> pd.Series:
    return _judge(frame, lambda a, b: ontology.is_a(a, b) or ontology.is_a(b, a), ontology)


def _close(frame: pd.DataFrame, ontology: CellOntology) -> pd.Series:
    def near(a: str, b: str) -> bool:
        steps = ontology.distance(a, b)
        return steps is not None and steps <= CLOSE

    return _judge(frame, near, ontology)


def _judge(frame: pd.DataFrame, test: Callable[[str, str], bool], ontology: CellOntology) -> pd.Series:
    """``test`` on the predicted and the known term of each row, asked once per pair; False where unknown."""
    # missing values are several objects that differ from each other and from themselves
    predicted = frame["predicted"].astype(object).where(frame["predicted"].notna(), None)
    pairs = list(zip(predicted, frame["term"], strict=True))
    answers = {(a, b): a in ontology and test(a, b) for a, b in set(pairs)}
    found = [answers[pair] for pair in pairs]
    return pd.Series(found, index=frame.index, dtype=bool)


def _mean(values: pd.Series) -> float:
    return round(float(values.mean()), 4) if len(values) else 0.0
