"""A service may send anything: any part of its usual answer replaced is read, or refused as another form."""

import copy
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from gca_core.knowledge.online import services
from gca_core.knowledge.online.client import RefusedError
from tests.helpers import knowledge_loopback as usual

LEAVES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8)
ANY_JSON = LEAVES | st.lists(LEAVES, max_size=2) | st.dictionaries(st.text(max_size=4), LEAVES, max_size=2)
READERS: dict[str, tuple[object, Callable[[Any], object], object]] = {
    "reactome search": (usual.REACTOME_SEARCH, lambda found: services._reactome_accession(found, "STAT1"), str | None),
    "reactome pathways": (usual.REACTOME_PATHWAYS, services._reactome_pathways, tuple[services.Pathway, ...]),
    "uniprot": (usual.UNIPROT, lambda found: services._protein(found, "STAT1"), services.Protein | None),
    "pubmed search": (usual.ESEARCH, services._pubmed_ids, tuple[int, list[str]]),
    "pubmed summaries": (
        usual.ESUMMARY,
        lambda found: services._articles(found, ["111"]),
        tuple[services.Article, ...],
    ),
    "go": (usual.QUICKGO, services._annotations, tuple[services.Annotation, ...]),
    "ensembl": (usual.ENSEMBL, lambda found: services._gene(found, "STAT1"), services.Gene),
}


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in inner:
        yield from places(child, (*path, key))


def replaced(answer: Any, path: tuple[Any, ...], value: Any) -> Any:
    if not path:
        return value
    changed = copy.deepcopy(answer)
    holder = changed
    for key in path[:-1]:
        holder = holder[key]
    holder[path[-1]] = value
    return changed


@pytest.mark.parametrize("reader", READERS)
def test_the_usual_answer_is_read(reader: str) -> None:
    answer, read, _kind = READERS[reader]
    assert read(answer)


@pytest.mark.parametrize("reader", READERS)
@settings(max_examples=40)
@given(data=st.data())
def test_any_part_may_be_something_else_and_what_is_read_is_still_of_its_kind(reader: str, data: st.DataObject) -> None:
    answer, read, kind = READERS[reader]
    path = data.draw(st.sampled_from(list(places(answer))))
    found = replaced(answer, path, data.draw(ANY_JSON))
    try:
        result = read(json.loads(json.dumps(found)))
    except (ValueError, RefusedError):
        return
    assert TypeAdapter(kind).validate_python(result, strict=True) == result


@given(text=st.text(max_size=60))
def test_any_text_of_kegg_is_read_or_refused(text: str) -> None:
    assert services._kegg_entry(text, "STAT1") is None or "STAT1" in text
    try:
        pairs = services._pairs(text)
    except ValueError:
        return
    assert all(f"{first}\t{second}" in text for first, second in pairs)
