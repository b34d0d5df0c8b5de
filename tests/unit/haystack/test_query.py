import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.bench_understanding import read_all, rows, share, wrong_errors
from gca_core.errors import QueryParsingError
from gca_core.haystack.context import HaystackContext, open_knowledge
from gca_core.haystack.models import StructuredQuery
from gca_core.haystack.question.rules import parse_question
from gca_core.haystack.understand import understand
from gca_core.knowledge.bundled.catalogue import PerturbationType
from gca_core.knowledge.bundled.genetic import resolve_perturbation


@pytest.fixture
def parse(knowledge_context: HaystackContext):
    def run(question: str, *extra: str) -> StructuredQuery:
        return parse_question(
            question,
            ontology=knowledge_context.ontology,
            catalogue=knowledge_context.catalogue,
            extra_perturbations=lambda: extra,
        )

    return run


@pytest.mark.parametrize(
    ("question", "cell_type_id", "perturbation"),
    [
        ("How would CD14+ monocytes respond to interferon beta?", "CL:0002057", "interferon beta"),
        ("How would FCGR3A+ monocytes respond to IFN-\u03b2?", "CL:0002396", "interferon beta"),
        ("what does TGFb1 do to CD4+ T cells", "CL:0000624", "TGF-beta 1"),
        ("NK cells treated with IL-2", "CL:0000623", "interleukin 2"),
        ("NKT cells treated with IL-15", "CL:0000814", "interleukin 15"),
        ("Effect of dexamethasone on alveolar macrophages", "CL:0000583", "dexamethasone"),
        ("Stem cell factor on hematopoietic stem cells", "CL:0000037", "stem cell factor"),
        ("How do B-cells react to B cell activating factor?", "CL:0000236", "BAFF"),
        ("Tregs under rapamycin", "CL:0000815", "sirolimus"),
        ("How would human plasmacytoid dendritic cells (pDCs) respond to IL-3?", "CL:0000784", "interleukin 3"),
        ("IFN-beta-treated B cells", "CL:0000236", "interferon beta"),
        ("TNF-\u03b1\u2013treated HUVECs", "CL:0002618", "tumor necrosis factor"),
        ("\u03b3\u03b4T cells with IL-2", "CL:0000798", "interleukin 2"),
        ("monocytes, TNF / 24 h", "CL:0000576", "tumor necrosis factor"),
        ("monocytes with IFNG/control", "CL:0000576", "interferon gamma"),
        ("exhausted CD8 T cells with IL-2", "CL:0020031", "interleukin 2"),
        ("loss of TET2 in hematopoietic stem cells", "CL:0000037", "TET2 knockout"),
        ("monocytes, that is CD14+ monocytes, with LPS", "CL:0002057", "lipopolysaccharide"),
    ],
)  # fmt: skip
def test_questions_are_read(parse, question: str, cell_type_id: str, perturbation: str) -> None:
    query = parse(question)
    assert (query.cell_type_id, query.perturbation) == (cell_type_id, perturbation)


def test_what_is_expected_comes_from_the_catalogue(parse) -> None:
    query = parse("How would CD14+ monocytes respond to interferon beta?")
    assert query.perturbation_type is PerturbationType.CYTOKINE
    assert query.family == "type I interferon"
    assert "HALLMARK_INTERFERON_ALPHA_RESPONSE" in {p.name for p in query.expectation.pathways}
    assert query.cell_type_text == "CD14+ monocytes"


@pytest.mark.parametrize(
    ("question", "message", "suggestion"),
    [
        ("", "empty", None),
        ("  \n ", "empty", None),
        ("What happens with interferon beta?", "names no cell type", None),
        ("How would monkocyts respond to interferon beta?", "cell type 'monkocyts' is not known", "monocyte"),
        ("How would CD14+ monocytes respond?", "names no perturbation", None),
        ("How would CD14+ monocytes respond to foobarumab?", "'foobarumab' is not known", None),
        ("How would monocytes respond to interferon betta?", "'interferon betta' is not known", "interferon beta"),
        ("How would monocytes respond to interferon?", "'interferon' is a group", "interferon gamma"),
        ("How would monocytes respond to type I interferon?", "is a group", "interferon beta"),
        ("How would B cells and T cells respond to IL-4?", "2 cell types", "B cell"),
        ("monocytes with IFNb and IFNg", "2 perturbations", "interferon gamma"),
        ("How would mouse monocytes respond to LPS?", "'mouse'; only human", None),
        ("monocytes treated with an IL-6 inhibitor", "blocking or lacking", "ruxolitinib"),
        ("monocytes without interferon gamma", "blocking or lacking", None),
    ],
)  # fmt: skip
def test_questions_that_cant_be_read_say_why(parse, question, message, suggestion):
    with pytest.raises(QueryParsingError, match=message) as caught:
        parse(question)
    if suggestion is not None:
        assert suggestion in caught.value.suggestions


def test_a_perturbation_that_only_the_atlas_knows_is_read_with_a_note(parse) -> None:
    query = parse("How would B cells respond to compound 42?", "compound-42")
    assert query.perturbation == "compound-42"
    assert not query.in_catalogue
    assert query.expectation.pathways == ()
    assert query.notes


def test_an_endless_question_is_refused(parse) -> None:
    with pytest.raises(QueryParsingError, match="characters"):
        parse("monocytes " * 1000)


def test_hostile_text_is_text(parse) -> None:
    with pytest.raises(QueryParsingError):
        parse("'; drop table cells; -- <script>alert(1)</script>")


@pytest.mark.parametrize(
    ("question", "cell_type_id", "perturbation", "uncertain"),
    [
        ("How would monocites respond to IL-10?", "CL:0000576", "interleukin 10", "'monocites' was read as 'monocyte'"),
        ("B cells under dexametasone", "CL:0000236", "dexamethasone", "'dexametasone' was read as 'dexamethasone'"),
        ("fibroblasts under TGF-beta", "CL:0000057", "TGF-beta 1", "may also mean TGF-beta 2"),
        ("B cells given IL-1", "CL:0000236", "interleukin 1 beta", "may also mean interleukin 1 alpha"),
        ("frobnicated B cells with IL-4", "CL:0000236", "interleukin 4", "'frobnicated' beside 'B cells'"),
        ("monocytes exhausted with IL-10", "CL:0000576", "interleukin 10", "'exhausted' beside 'monocytes'"),
        ("in PBMCs, monocytes with IL-10", "CL:0000576", "interleukin 10", "'PBMCs' was read as where"),
    ],
)
def test_what_is_uncertain_is_said(parse, question, cell_type_id, perturbation, uncertain):
    query = parse(question)
    assert (query.cell_type_id, query.perturbation) == (cell_type_id, perturbation)
    assert uncertain in "; ".join(query.ambiguities)


@pytest.mark.parametrize(
    ("question", "cell_type_id", "tissues"),
    [
        ("T cells in the kidney with IL-2", "CL:0000084", {"kidney"}),
        ("monocytes from bone marrow with M-CSF", "CL:0000576", {"bone marrow"}),
        (
            "In inflamed synovium, how do fibroblasts respond to TNF?",
            "CL:0000057",
            {"layer of synovial tissue"},
        ),
        ("airway epithelium with IL-13", "CL:0002368", set()),
        ("PBMCs with IL-2", "CL:2000001", set()),
    ],
)
def test_tissues_are_no_cell_types(parse, question, cell_type_id, tissues):
    query = parse(question)
    assert query.cell_type_id == cell_type_id
    assert set(query.tissues.values()) == tissues


def test_a_clear_question_is_not_uncertain(parse) -> None:
    assert parse("How would CD14+ monocytes respond to interferon beta?").ambiguities == ()


@pytest.mark.parametrize("spelling", ["TGF-beta", "TGFb1", "TGF-\u03b21", "transforming growth factor beta 1", "TGFB1"])
def test_spellings_meet(parse, spelling: str) -> None:
    assert parse(f"fibroblasts with {spelling}").perturbation == "TGF-beta 1"


@pytest.mark.parametrize(
    ("question", "name", "direction"),
    [
        ("STAT1 knockout in CD4 T cells", "STAT1 knockout", "down"),
        ("STAT1-deficient CD4 T cells", "STAT1 knockout", "down"),
        ("siRNA knockdown of RELA in keratinocytes", "RELA knockdown", "down"),
        ("CRISPRa of IL2RA in T cells", "IL2RA CRISPRa", "up"),
        ("CRISPR activation of IL2RA in T cells", "IL2RA CRISPRa", "up"),
        ("IL-6 KO in fibroblasts", "IL6 knockout", "down"),
        ("B cells overexpressing MYC", "MYC overexpression", "up"),
        ("IFN-gamma -/- monocytes", "IFNG knockout", "down"),
        *((f"{word} monocytes", "TNF knockout", "down") for word in (
            "TNF-/-", "Tnf \u2212/\u2212", "TNF\u2212/\u2212", "TNF\u207b/\u207b", "TNF(-/-)", "TNF - / -", "TNFKO",
            "TNF-null", "TNF deficient", "sgTNF", "TNF CRISPR",
        )),
        *((f"{word} monocytes", "TNF knockdown", "down") for word in ("TNF+/-", "si-TNF", "shTNF", "TNF antisense")),
    ],
)  # fmt: skip
def test_genetic_perturbations_act_on_their_gene(parse, question: str, name: str, direction: str) -> None:
    query = parse(question)
    assert (query.perturbation, query.perturbation_type) == (name, PerturbationType.GENETIC)
    assert query.expectation.targets[0].direction == direction


@pytest.mark.parametrize(
    "question",
    [
        "TNF blockade in monocytes", "blocked TNF in monocytes", "TNF is blocked in monocytes", "no TNF in monocytes",
        "monocytes in the absence of TNF", "antibodies to TNF on monocytes", "monocytes w/o TNF",
        "monocytes not treated with TNF", "monocytes deprived of TNF", "IL-2 starvation of T cells",
        "TNF mAb on monocytes", "TNF degrader on monocytes", "TNF+/+ monocytes", "TNFfl/fl monocytes",
    ],
)  # fmt: skip
def test_what_asks_for_the_lack_of_it_is_never_read_as_it(parse, question: str) -> None:
    with pytest.raises(QueryParsingError) as caught:
        parse(question)
    assert caught.value.reason in {"blocking", "genotype"}


@pytest.mark.parametrize(
    ("cell_type", "perturbation", "kind", "found"),
    [
        ("CD14+ monocyte", "IFN-b", None, ("CL:0002057", "interferon beta", "cytokine")),
        ("CL:0002057", "TNF", "cytokine", ("CL:0002057", "tumor necrosis factor", "cytokine")),
        ("monocytes", "TNF", "KO", ("CL:0000576", "TNF knockout", "genetic")),
        ("monocytes", "IL-6", "CRISPRi", ("CL:0000576", "IL6 CRISPRi", "genetic")),
        ("monocytes", "TNF-/-", None, ("CL:0000576", "TNF knockout", "genetic")),
    ],
)
def test_names_are_looked_up_as_they_are(knowledge_context, cell_type, perturbation, kind, found):
    query = understand(None, knowledge_context, cell_type=cell_type, perturbation=perturbation, kind=kind)
    assert (query.cell_type_id, query.perturbation, query.perturbation_type) == found


@pytest.mark.parametrize(
    ("question", "names", "reason"),
    [
        ("B cells with IL-4", {"cell_type": "B cell"}, "two_ways"),
        (None, {"cell_type": "B cell"}, "empty"),
        (None, {"cell_type": "B cel", "perturbation": "IL-4"}, "unknown_cell_type"),
        (None, {"cell_type": "Jurkat", "perturbation": "IL-4"}, "cell_line"),
        (None, {"cell_type": "mouse B cell", "perturbation": "IL-4"}, "species"),
        (None, {"cell_type": "B cell", "perturbation": "interferon"}, "ambiguous_perturbation"),
        (None, {"cell_type": "B cell", "perturbation": "TNF blockade"}, "unknown_perturbation"),
        (None, {"cell_type": "B cell", "perturbation": "dexamethasone", "kind": "cytokine"}, "other_kind"),
        (None, {"cell_type": "B cell", "perturbation": "dexamethasone", "kind": "knockout"}, "unknown_gene"),
    ],
)
def test_names_that_say_nothing_are_refused(knowledge_context, question, names, reason):
    with pytest.raises(QueryParsingError) as caught:
        understand(question, knowledge_context, **names)
    assert caught.value.reason == reason


def test_the_tuned_part_of_the_question_table_is_read(knowledge_context: HaystackContext) -> None:
    readings = [r for r in read_all(knowledge_context) if r.split == "tuned"]
    assert len(readings) >= 120
    assert share(readings, "right", "tuned") >= 0.90
    assert share(readings, "silently wrong", "tuned") <= 0.02


def test_the_answers_of_the_question_table_exist(knowledge_context: HaystackContext) -> None:
    for row in rows("questions.tsv"):
        assert knowledge_context.ontology.label(row["cell_type_id"]) == row["cell_type"]
        assert resolve_perturbation(row["perturbation"], knowledge_context.catalogue) is not None


def test_what_cant_be_read_is_refused_for_its_own_reason(knowledge_context: HaystackContext) -> None:
    assert wrong_errors(knowledge_context) == []


@given(st.text(max_size=120))
@settings(max_examples=30, deadline=None)
def test_no_text_breaks_the_reader(text: str) -> None:
    context = open_knowledge()
    try:
        query = parse_question(text, ontology=context.ontology, catalogue=context.catalogue)
    except QueryParsingError as error:
        assert error.reason
    else:
        assert query.cell_type_id in context.ontology
