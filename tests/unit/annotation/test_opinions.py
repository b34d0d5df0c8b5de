import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from gca_core.annotation import annotate_anndata, annotate_by_reference, load_marker_database
from gca_core.annotation.models import Annotation, FlagReason, Opinion
from gca_core.annotation.opinions.join import join
from gca_core.annotation.report.page import render_csv, render_html
from gca_core.cli.main import app
from gca_core.datasets import kang2018_mini
from gca_core.errors import DataValidationError
from gca_core.knowledge.bundled.ontology import load_ontology

B, T, CD4, MONOCYTE = "CL:0000236", "CL:0000084", "CL:0000624", "CL:0000576"


@pytest.fixture(scope="module")
def kang():
    cells = kang2018_mini()
    cells = cells[cells.obs["cell_type"].notna()]
    return cells[::3].copy(), cells[1::6].copy()


def test_cells_are_labelled_by_others_and_left_alone_where_their_type_is_absent(kang):
    known, cells = kang
    truth = cells.obs["cell_type"].astype(str).to_numpy()
    found = annotate_by_reference(cells, known, "cell_type")
    labelled = found["label"].notna().to_numpy()
    assert labelled.mean() > 0.7
    assert (found["label"].to_numpy()[labelled] == truth[labelled]).mean() > 0.85
    assert found.loc[labelled, "ontology_id"].str.startswith("CL:").all()
    without = known[known.obs["cell_type"] != "B cell"].copy()
    foreign = annotate_by_reference(cells[truth == "B cell"].copy(), without, "cell_type")
    assert foreign["label"].isna().mean() > 0.7
    few = [gene for gene in known.var_names if gene in load_marker_database().genes]
    with pytest.raises(DataValidationError, match=r"share .* genes"):
        annotate_by_reference(cells, known[:, few[:60]].copy(), "cell_type")


@pytest.mark.parametrize(
    ("own", "others", "consensus", "label", "disagree"),
    [
        (T, (CD4, B), True, T, False),
        (B, (CD4, CD4), True, CD4, False),
        (None, (B, B), True, B, False),
        (B, (T, MONOCYTE), True, B, True),
        (B, (None, None), True, B, True),
        (B, (T, B), False, B, True),
        (T, (CD4, None), False, T, False),
    ],
)
def test_opinions_are_joined_by_majority_or_shown_beside_the_label(own, others, consensus, label, disagree, annotation):
    ontology = load_ontology()
    name = "Unknown or Novel" if own is None else ontology.label(own)
    given = annotation.model_copy(update={"ontology_id": own, "primary_label": name})
    heard = [Opinion(source=f"s{i}", label=t and ontology.label(t), ontology_id=t) for i, t in enumerate(others)]
    (found,) = join([given], [heard], ontology, consensus=consensus)
    assert found.ontology_id == label
    assert (FlagReason.OPINIONS_DISAGREE in found.flag_reasons) == disagree
    assert len(found.opinions) == 3


@pytest.fixture
def annotation(kang) -> Annotation:
    return (
        annotate_anndata(kang[1].copy(), "cell_type", tissue="blood")
        .annotations[0]
        .model_copy(update={"flag_reasons": ()})
    )


def test_a_consensus_hears_ulm_the_reference_and_a_column_and_the_report_shows_them(kang):
    known, cells = kang
    cells = cells.copy()
    cells.obs["other"] = np.where(cells.obs["cell_type"] == "B cell", "T cell", cells.obs["cell_type"].astype(str))
    report = annotate_anndata(
        cells,
        "cell_type",
        tissue="blood",
        reference=known,
        reference_labels="cell_type",
        opinion_column="other",
        consensus=True,
    )
    b_cells = next(a for a in report.annotations if a.cluster == "B cell")
    assert [o.source for o in b_cells.opinions] == ["markers", "ULM", "reference", "other"]
    assert b_cells.opinions[-1].ontology_id == T
    assert b_cells.ontology_id == B
    for text in (render_csv(report), render_html(report, {}, title="x")):
        assert "other: T cell (100 % of cells)" in text


def test_the_command_writes_the_labels_beside_the_cells(kang, tmp_path):
    known, cells = kang
    known.write_h5ad(tmp_path / "known.h5ad")
    cells.write_h5ad(tmp_path / "cells.h5ad")
    given = ["annotate-by-reference", str(tmp_path / "cells.h5ad"), "--reference", str(tmp_path / "known.h5ad")]
    done = CliRunner().invoke(app, [*given, "--reference-labels", "cell_type", "-o", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    table = pd.read_csv(tmp_path / "out" / "cells.csv", index_col=0)
    assert len(table) == cells.n_obs
    assert "have no label" in done.output
    assert (tmp_path / "out" / "labelled.h5ad").is_file()
