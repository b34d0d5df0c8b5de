"""Labels by a reference of labelled cells: leave one donor, one condition or one study out, and cells of absent types.

Run with ``python benchmarks/bench_annotation_reference.py``; the cells are looked for under GCA_BENCH_DATA (default
../shared/data). A label is right that is the authors' type or lies above or below it on the Cell Ontology. Foreign are
cells whose type the reference lacks; the rows "without" leave out one of its own, near types among them.
"""

from __future__ import annotations

import logging
import os
import warnings
from pathlib import Path
from typing import Any

import anndata as ad
import pandas as pd

from gca_core.annotation import annotate_anndata, annotate_by_reference
from gca_core.annotation.models import FlagReason
from gca_core.knowledge.bundled.ontology import load_ontology

ROOT = Path(__file__).resolve().parents[1]
DATA = Path(os.environ.get("GCA_BENCH_DATA", ROOT.parent / "shared" / "data")) / "cells"
KANG, FACS, ISLETS = "kang2018_ifnb_9069x14053_counts", "zheng_facs_800x32738_counts", "baron_350x12474_counts"
TYPES = ("B cells", "CD4 T cells", "CD8 T cells")


def right(labels: pd.Series, truth: pd.Series) -> pd.Series:
    """Whether each label and the authors' are on one line of the ontology."""
    ontology = load_ontology()
    pairs = [(ontology.resolve(str(a)), ontology.resolve(str(b))) for a, b in zip(labels, truth, strict=True)]
    return pd.Series([bool(a and b) and (ontology.is_a(a, b) or ontology.is_a(b, a)) for a, b in pairs])


def known(title: str, reference: ad.AnnData, cells: ad.AnnData) -> None:
    """Print how many cells of known types are labelled, and how many rightly."""
    found = annotate_by_reference(cells, reference, "cell_type")
    labelled = found["label"].notna().to_numpy()
    good, forced = (right(found[column], cells.obs["cell_type"]) for column in ("label", "proposed_label"))
    share = [100 * float(x) for x in (labelled.mean(), good[labelled].mean(), good.mean(), forced.mean())]
    print(f"{title:44s} {share[0]:8.1f} % {share[1]:8.1f} % {share[2]:8.1f} % {share[3]:8.1f} %", flush=True)


def foreign(title: str, reference: ad.AnnData, cells: ad.AnnData) -> None:
    """Print how many cells of absent types stay without a label."""
    found = annotate_by_reference(cells, reference, "cell_type")
    print(f"{title:44s} {100 * found['label'].isna().mean():8.1f} % of {len(found):,} abstained", flush=True)


def consensus(title: str, reference: ad.AnnData, cells: ad.AnnData) -> None:
    """Print what the markers' labels of Leiden clusters are worth alone and joined with others."""
    cells, ontology = cells.copy(), load_ontology()
    truth = cells.obs["cell_type"].astype(str).map(ontology.resolve)
    annotate_anndata(cells, None, tissue="blood")
    given: dict[str, Any] = {"reference": reference, "reference_labels": "cell_type"}
    arms = {"markers": {}, "and ULM": {"consensus": True}, "and reference": given | {"consensus": True}}
    for what, options in arms.items():
        report = annotate_anndata(cells, "gptca_cluster", prefix="joined_", tissue="blood", **options)
        terms = {a.cluster: a.ontology_id for a in report.annotations}
        doubted = {a.cluster for a in report.annotations if FlagReason.OPINIONS_DISAGREE in a.flag_reasons}
        clusters = cells.obs["gptca_cluster"].astype(str)
        pairs = list(zip(clusters.map(terms), truth, clusters.isin(doubted), strict=True))
        on_line = [bool(a and b) and (ontology.is_a(a, b) or ontology.is_a(b, a)) for a, b, _ in pairs]
        right = sum(a == b for a, b, _ in pairs) / len(pairs)
        agreed = [near for near, (_, _, doubt) in zip(on_line, pairs, strict=True) if not doubt]
        print(
            f"{title + ', ' + what:52s} {100 * right:6.1f} % {100 * (sum(on_line) / len(pairs) - right):6.1f} % "
            f"{100 * (1 - len(agreed) / len(pairs)):6.1f} % {100 * sum(agreed) / max(len(agreed), 1):6.1f} %",
            flush=True,
        )


def main() -> None:
    """Print all rows."""
    warnings.simplefilter("ignore")
    logging.getLogger("gca_core").setLevel(logging.ERROR)
    paths = [DATA / f"{name}.h5ad" for name in (KANG, FACS, ISLETS)]
    if not all(path.is_file() for path in paths):
        print(f"skipped: the cells are not under {DATA}; set GCA_BENCH_DATA to the folder that holds cells/")
        return
    kang, facs, islets = (ad.read_h5ad(path) for path in paths)
    kang.obs_names_make_unique()
    stimulated, donor = (kang.obs["condition"] == "stim").to_numpy(), kang.obs["donor"].astype(str).to_numpy()
    control, stim = kang[~stimulated].copy(), kang[stimulated].copy()
    types = kang.obs["cell_type"].astype(str)
    print(f"{'':44s} {'labelled':>10s} {'right of these':>10s} {'right of all':>9s} {'forced':>8s}")
    for name in ("101", "107", "1015"):
        known(f"Kang, all donors but {name}, on that one", kang[donor != name].copy(), kang[donor == name].copy())
    known("Kang, control cells on stimulated ones", control, stim)
    known("Kang's control cells on FACS-sorted ones", control, facs)
    known("FACS-sorted B, CD4 and CD8 T cells on Kang's", facs, control[control.obs["cell_type"].isin(TYPES)].copy())
    human = islets[islets.obs["Batch"].astype(str).str.contains("human", case=False)].copy()
    foreign("Kang's blood on islets of the pancreas", control, human)
    foreign("FACS-sorted lymphocytes on islets", facs, human)
    print(f"{'':52s} {'right':>8s} {'related':>8s} {'flagged':>8s} {'right or related of the others':>8s}")
    for name in ("101", "107", "1015"):
        consensus(f"Kang, donor {name}", kang[donor != name].copy(), kang[donor == name].copy())
    consensus("Kang, stimulated", control, stim)
    consensus("FACS-sorted", control, facs)
    for name in sorted(set(types)):
        cells = stim[(stim.obs["cell_type"] == name).to_numpy()].copy()
        foreign(f"Kang without {name}, on these", control[(control.obs["cell_type"] != name).to_numpy()].copy(), cells)


if __name__ == "__main__":
    main()
