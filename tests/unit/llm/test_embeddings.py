"""Hashed text embeddings."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gca_core.llm.embeddings import HashedTextEmbeddings, similarity_threshold


def similarity(one: str, other: str) -> float:
    first, second = HashedTextEmbeddings().embed_documents([one, other])
    return float(np.dot(first, second))


@given(st.text())
def test_every_text_has_a_vector_of_length_one(text: str) -> None:
    vector = HashedTextEmbeddings().embed_query(text)
    assert len(vector) == 1536
    assert np.linalg.norm(vector) == pytest.approx(1.0)


def test_vectors_are_the_same_on_every_machine() -> None:
    vector = np.array(HashedTextEmbeddings(64).embed_query("interferon beta"))
    assert np.flatnonzero(vector)[:6].tolist() == [2, 7, 9, 10, 12, 19]
    assert HashedTextEmbeddings().model == "hashed-text-1536"


def test_case_accents_and_greek_letters_do_not_matter() -> None:
    assert similarity("TGF-β1 naïve", "tgf-beta1 NAIVE") == pytest.approx(1.0)


def test_names_that_are_spelled_alike_are_near() -> None:
    assert similarity("interferon beta", "interferon-beta 1") > 0.7
    assert similarity("interferon beta", "interferon gamma") > similarity("interferon beta", "dexamethasone")
    assert abs(similarity("interferon beta", "dexamethasone")) < 0.2


def test_a_size_that_makes_no_sense_is_refused() -> None:
    with pytest.raises(ValueError, match="dim is 0"):
        HashedTextEmbeddings(0)


def test_a_threshold_is_known_only_where_it_was_measured() -> None:
    assert similarity_threshold("hashed-text-1536") == pytest.approx(0.32)
    assert similarity_threshold("a model that nobody measured") is None
