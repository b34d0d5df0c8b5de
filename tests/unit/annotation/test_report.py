import re
from html.parser import HTMLParser
from io import BytesIO

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from gca_core.annotation.markers.delimited import plain_cell, safe_cell
from gca_core.annotation.models import (
    UNKNOWN,
    Agreement,
    Alternative,
    Annotation,
    Confidence,
    DatasetReport,
    Evidence,
    FlagReason,
    GeneEvidence,
    LabelAgreement,
    ModelStats,
    Override,
    RunStats,
    Status,
)
from gca_core.annotation.report.dot_plot import MarkerExpression, deciding_markers, dot_plot_png
from gca_core.annotation.report.page import render_html
from gca_core.annotation.report.palette import GREY, label_colours
from gca_core.annotation.report.umap_figure import cluster_codes, report_figures
from gca_core.annotation.report.words import FLAG_WORDS
from gca_core.errors import DataValidationError
from gca_core.llm.models import Usage
from tests.helpers.annotations import make_annotation, make_report

HOSTILE = "\"><img src=x onerror=alert(1)>'</script><script>alert(2)</script>{{ 7*7 }}$\\frac{1}$"
PNG = b"\x89PNG"


def annotation(name: str, label: str = "B cell", **fields) -> Annotation:
    evidence = Evidence(supporting=(GeneEvidence(gene=f"G-{label}", weight=1.0, marks=label),))
    return make_annotation(name, label, **{"ontology_id": "CL:0000236", "evidence": evidence} | fields)


def report(*annotations: Annotation, **fields) -> DatasetReport:
    stats = RunStats(request_id="nightly-7", seconds=3.0, stage_seconds={"read": 1.0})
    return make_report(*annotations, stats=stats, **fields)


class Page(HTMLParser):
    """Tags, attributes and text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self._skipped = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._skipped = tag if tag in {"style", "script"} else ""

    def handle_endtag(self, tag):
        self._skipped = ""

    def handle_data(self, data):
        if not self._skipped:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def cells(annotations, per_cluster: int = 3) -> tuple[ad.AnnData, np.ndarray]:
    names = [a.cluster for a in annotations for _ in range(per_cluster)]
    groups = pd.Categorical(names, categories=[a.cluster for a in annotations])
    obs = pd.DataFrame({"k": groups}, index=[f"c{i}" for i in range(len(names))])
    return ad.AnnData(obs=obs), np.random.default_rng(0).normal(size=(len(names), 2))


def expression(annotations) -> MarkerExpression:
    genes = tuple(g for group in deciding_markers(annotations).values() for g in group)
    shape = (len(annotations), len(genes))
    values = np.random.default_rng(0).uniform(size=shape)
    return MarkerExpression(tuple(a.cluster for a in annotations), genes, values, values)


def test_hostile_text_stays_text_wherever_it_comes_from():
    hostile = annotation(
        HOSTILE,
        HOSTILE,
        ontology_id=HOSTILE,
        rationale=HOSTILE,
        caveats=(HOSTILE,),
        alternatives=(Alternative(label=HOSTILE, ontology_id="", score=1.0, reason=HOSTILE),),
        markers=(HOSTILE,),
        proposed_label=HOSTILE + "2",
        common_name=HOSTILE,
        status=Status.FLAGGED,
        flag_reasons=tuple(FlagReason),
        evidence=Evidence(
            supporting=(GeneEvidence(gene=HOSTILE, weight=1, marks=HOSTILE),),
            contradicting=(GeneEvidence(gene=HOSTILE, weight=-1, marks=HOSTILE),),
            missing=(HOSTILE,),
        ),
        override=Override(label=HOSTILE, ontology_id=None, who=HOSTILE, when=HOSTILE, note=HOSTILE, replaced="x"),
    )
    known = LabelAgreement(label=HOSTILE, ontology_id=None, n_cells=1, exact=0, related=0, close=0)
    whole = report(
        hostile,
        cluster_key=HOSTILE,
        tissue=HOSTILE,
        matrix=HOSTILE,
        ranking=HOSTILE,
        versions={HOSTILE: HOSTILE},
        model=HOSTILE,
        model_stats=ModelStats(
            models=(HOSTILE,),
            prompt_version=HOSTILE,
            cache_hits=0,
            llm_batches=1,
            fallbacks=0,
            disagreements=0,
            usage=Usage(),
            seconds=1.0,
            notes=(HOSTILE,),
        ),
        agreement=Agreement(
            column=HOSTILE,
            n_cells=1,
            n_clusters=1,
            exact=0,
            related=0,
            close=0,
            clusters_exact=0,
            clusters_related=0,
            unresolved=(HOSTILE,),
            by_label=(known,),
        ),
    )
    page = Page(render_html(whole, {"label": PNG}, title=HOSTILE))
    assert [tag for tag, _ in page.tags].count("img") == 1
    assert [tag for tag, _ in page.tags].count("script") == 1
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
    assert "49" not in page.text
    adata, coordinates = cells(whole.annotations)
    whole = whole.model_copy(update={"cluster_key": "k"})
    figures = report_figures(adata, whole, coordinates, None)
    assert all(picture.startswith(PNG) for picture in figures.values())


def test_the_page_may_load_nothing_and_run_its_own_script_alone():
    text = render_html(report(annotation("1")), {"label": PNG}, title="t")
    policies = [a["content"] for tag, a in Page(text).tags if a.get("http-equiv") == "Content-Security-Policy"]
    assert len(policies) == 1
    assert "default-src 'none'" in policies[0]
    assert re.search(r"script-src 'sha256-[A-Za-z0-9+/]{43}='", policies[0])
    assert not re.search(r"(?:src|href)\s*=\s*[\"'](?!data:)", text)
    assert "url(" not in text
    assert "@import" not in text


def test_the_scripts_hash_in_the_policy_is_that_of_the_script():
    import base64
    import hashlib

    text = render_html(report(annotation("1")), {}, title="t")
    script = text.split('<script id="page">')[1].split("</script>")[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in text


def test_a_reader_finds_what_was_decided_why_and_what_ran():
    flagged = annotation(
        "2",
        UNKNOWN,
        ontology_id=None,
        status=Status.FLAGGED,
        confidence=Confidence.LOW,
        flag_reasons=(FlagReason.LOW_MARKER_OVERLAP,),
        proposed_label="T cell",
    )
    override = Override(
        label="B cell", ontology_id="CL:0000236", who="ada", when="2030-01-31T12:00:00+00:00", note="eye", replaced="T"
    )
    reviewed = annotation("3", common_name="B", annotator="review", override=override)
    models = ModelStats(
        models=("openai:m",),
        prompt_version="3",
        cache_hits=4,
        llm_batches=2,
        fallbacks=1,
        disagreements=0,
        usage=Usage(calls=2, input_tokens=1200, output_tokens=30, cost=0.01, currency="USD"),
        seconds=1.5,
    )
    text = Page(
        render_html(report(annotation("1"), flagged, reviewed, model="openai:m", model_stats=models), {}, title="Mine")
    ).text
    for words in (
        "3 clusters",
        "few known markers",
        "best guess: T cell",
        "ada, 2030-01-31: instead of T. eye",
        "4 answers from the cache",
        "1,200 in, 30 out",
        "0.0100 USD",
        "ab" * 32,
        "2026-03-26",
        "nightly-7",
        "scanpy 1.11",
        "33.3 %",
    ):
        assert words in text, words


def test_lists_of_markers_have_a_report_without_cells():
    bare = annotation("1", n_cells=None)
    page = Page(render_html(report(bare, matrix="lists of marker genes"), {}, title="lists"))
    assert "lists of marker genes" in page.text
    assert [tag for tag, _ in page.tags].count("img") == 0
    assert "Share" not in page.text


@pytest.mark.slow
def test_many_clusters_with_names_of_any_sort_are_drawn():
    labels = [f"type {i % 65} with a rather long name, $x_{{{i}}}$" for i in range(75)]
    many = [annotation(f"{i} ünïcode \n 细胞 $" if i else "", label, n_cells=i) for i, label in enumerate(labels)]
    whole = report(*many)
    adata, coordinates = cells(many)
    figures = report_figures(adata, whole, coordinates, expression(many))
    assert set(figures) == {"label", "confidence", "dotplot"}
    assert all(PNG in picture[:4] for picture in figures.values())
    assert sum(len(genes) for genes in deciding_markers(many).values()) == 60
    page = Page(render_html(whole, figures, title="many"))
    assert "Of 75 clusters the 60 largest are shown." in page.text


@pytest.mark.parametrize("label", ["B cell", UNKNOWN])
def test_a_single_cluster_is_drawn(label):
    one = report(annotation("only", label))
    adata, coordinates = cells(one.annotations)
    markers = expression(one.annotations) if label != UNKNOWN else None
    figures = report_figures(adata, one, coordinates, markers)
    assert ("dotplot" in figures) == (label != UNKNOWN)


def test_pictures_are_the_same_each_time():
    one = report(annotation("1"), annotation("2", "T cell"))
    assert dot_plot_png(expression(one.annotations), one) == dot_plot_png(expression(one.annotations), one)


def test_the_longest_names_are_not_cut_off_a_dot_plot():
    one = report(annotation("W" * 99, "W" * 99), annotation("2", "T cell"))
    markers = MarkerExpression(("W" * 99, "2"), ("G-" + "W" * 99, "G-T cell"), np.eye(2), np.eye(2))
    pixels = np.asarray(Image.open(BytesIO(dot_plot_png(markers, one))))[..., :3]
    assert all((edge == 255).all() for edge in (pixels[:8], pixels[-8:], pixels[:, :8], pixels[:, -8:]))


def test_cells_without_a_cluster_are_drawn_as_such_and_other_clusters_refused():
    whole = report(annotation("1"), annotation("2"))
    adata, coordinates = cells(whole.annotations)
    adata.obs.loc["c0", "k"] = np.nan
    assert cluster_codes(adata, whole).tolist() == [-1, 0, 0, 1, 1, 1]
    assert report_figures(adata, whole, coordinates, None)["label"].startswith(PNG)
    with pytest.raises(DataValidationError, match="other clusters than the report"):
        cluster_codes(adata, report(annotation("1")))
    with pytest.raises(DataValidationError, match="no cluster column"):
        cluster_codes(adata, whole.model_copy(update={"cluster_key": "none"}))


def test_genes_decide_for_one_label_each_and_none_for_what_a_person_decided():
    shared = Evidence(supporting=(GeneEvidence(gene="CD3D", weight=2.0, marks="T cell"),))
    override = Override(label="B cell", ontology_id=None, who="a", when="2030-01-31T12:00:00+00:00", replaced="T cell")
    annotations = [
        annotation("1", "T cell", evidence=shared, n_cells=50),
        annotation("2", "NK", evidence=shared),
        annotation("3", "B cell", evidence=shared, override=override),
    ]
    assert deciding_markers(annotations) == {"T cell": ("CD3D",)}


def test_marker_expression_comes_back_from_what_a_file_holds():
    value = expression([annotation("1"), annotation("2", "T cell")])
    back = MarkerExpression.from_uns(value.to_uns())
    assert (back.clusters, back.genes) == (value.clusters, value.genes)
    assert np.array_equal(back.mean, value.mean)


def test_labels_keep_apart_by_colour_and_unknown_is_grey():
    colours = label_colours([annotation(str(i), f"type {i}") for i in range(58)] + [annotation("u", UNKNOWN)])
    named = [colour for label, colour in colours.items() if label.startswith("type")]
    assert len(set(named)) == 58
    assert colours[UNKNOWN] == GREY


def test_every_flag_has_plain_words_that_differ():
    assert set(FLAG_WORDS) == set(FlagReason)
    assert len({words for words, _ in FLAG_WORDS.values()}) == len(FLAG_WORDS)


@pytest.mark.parametrize(
    ("text", "written"),
    [("=1+1", "'=1+1"), ("+1", "'+1"), ("@x", "'@x"), ("-1", "-1"), ("-2+3", "'-2+3"), ("\tx", "'\tx"), ("'a", "'a")],
)
def test_text_that_a_spreadsheet_would_compute_is_marked_and_reads_back(text, written):
    assert safe_cell(text) == written
    assert plain_cell(written) == text
