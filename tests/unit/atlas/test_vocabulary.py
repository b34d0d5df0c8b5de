"""The bundled words."""

import pytest

from gca_core.atlas.ingest.names import NameResolver, load_name_resolver
from gca_core.atlas.ingest.rows import chance_similarity
from gca_core.llm.embeddings import HashedTextEmbeddings


@pytest.fixture(scope="module")
def words() -> NameResolver:
    return load_name_resolver()


def test_words_of_published_files_are_known(words: NameResolver) -> None:
    assert words.resolve_cell_type("CD14 Mono") is not None
    assert words.resolve_perturbation is not None
    assert words.resolve_perturbation("IFN-beta") == "interferon beta"
    assert words.resolve_perturbation("no such thing") is None
    assert words.resolve_tissue is not None
    assert words.resolve_tissue("Bone Marrow") == "UBERON:0002371"


def test_names_come_with_their_synonyms(words: NameResolver) -> None:
    assert "IFNB1" in words.synonyms("perturbation", "interferon beta")
    assert words.synonyms("cell_type", "CL:0000236")
    assert words.synonyms("tissue", "UBERON:0000178")
    assert list(words.synonyms("perturbation", "no such thing")) == []


def test_ids_of_other_releases_are_their_own_labels(words: NameResolver) -> None:
    assert words.label_cell_type is not None
    assert words.label_cell_type("CL:9999999") == "CL:9999999"
    assert list(words.synonyms("cell_type", "CL:9999999")) == []


def test_the_similarity_of_chance_lies_between_unrelated_and_like_names(words: NameResolver) -> None:
    embeddings = HashedTextEmbeddings()
    threshold = chance_similarity(embeddings.embed_documents(list(words.names)))
    assert 0.05 < threshold < 0.6
    assert chance_similarity(embeddings.embed_documents(list(words.names[:9]))) is None
