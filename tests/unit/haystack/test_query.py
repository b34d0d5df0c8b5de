from __future__ import annotations

import pytest

from gca_core.errors import QueryParsingError
from gca_core.haystack.context import HaystackContext
from gca_core.haystack.models import PerturbationType, StructuredQuery
from gca_core.haystack.query import parse_question


@pytest.fixture
def parse(knowledge_context: HaystackContext):  # type: ignore[no-untyped-def]
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
        ("monocytes, that is CD14+ monocytes, with LPS", "CL:0002057", "lipopolysaccharide"),
    ],
)  # fmt: skip
def test_questions_are_read(parse, question: str, cell_type_id: str, perturbation: str) -> None:  # type: ignore[no-untyped-def]
    query = parse(question)
    assert (query.cell_type_id, query.perturbation) == (cell_type_id, perturbation)


def test_what_is_expected_comes_from_the_catalogue(parse) -> None:  # type: ignore[no-untyped-def]
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
        ("How would monocites respond to interferon beta?", "cell type 'monocites' is not known", "monocyte"),
        ("How would CD14+ monocytes respond?", "names no perturbation", None),
        ("How would CD14+ monocytes respond to foobarumab?", "'foobarumab' is not known", None),
        ("How would monocytes respond to interferon betta?", "'interferon betta' is not known", "interferon beta"),
        ("How would monocytes respond to interferon?", "'interferon' is not known", "interferon gamma"),
        ("How would monocytes respond to type I interferon?", "not known", "interferon beta"),
        ("How would B cells and T cells respond to IL-4?", "2 cell types", "B cell"),
        ("monocytes with IFNb and IFNg", "2 perturbations", "interferon gamma"),
        ("How would mouse monocytes respond to LPS?", "'mouse'; only human", None),
        ("monocytes treated with an IL-6 inhibitor", "blocking or lacking", "ruxolitinib"),
        ("monocytes without interferon gamma", "blocking or lacking", None),
    ],
)  # fmt: skip
def test_questions_that_cant_be_read_say_why(  # type: ignore[no-untyped-def]
    parse, question: str, message: str, suggestion: str | None
) -> None:
    with pytest.raises(QueryParsingError, match=message) as caught:
        parse(question)
    if suggestion is not None:
        assert suggestion in caught.value.suggestions


def test_a_perturbation_that_only_the_atlas_knows_is_read_with_a_note(parse) -> None:  # type: ignore[no-untyped-def]
    query = parse("How would B cells respond to compound 42?", "compound-42")
    assert query.perturbation == "compound-42"
    assert not query.in_catalogue
    assert query.expectation.pathways == ()
    assert query.notes


def test_an_endless_question_is_refused(parse) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(QueryParsingError, match="characters"):
        parse("monocytes " * 1000)


def test_hostile_text_is_text(parse) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(QueryParsingError):
        parse("'; drop table cells; -- <script>alert(1)</script>")
