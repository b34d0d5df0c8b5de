import dataclasses

import numpy as np
import numpy.typing as npt
import pytest

from gca_core.datasets import kang2018_mini
from gca_core.errors import EvaluationError
from gca_core.grounding.components import auc, enrichment
from gca_core.grounding.knowledge import GroundingKnowledge, load_knowledge
from gca_core.grounding.models import Expectation, GroundingConfig, GroundingStatus
from gca_core.grounding.score import score_prediction
from gca_core.knowledge.bundled.catalogue import ExpectedGene, ExpectedPathway, load_catalogue
from gca_core.matrix.compare import log_fold_change

Array = npt.NDArray[np.float64]


def expectation_of(name: str) -> Expectation:
    entry = load_catalogue().get(name)
    return Expectation(
        targets=entry.targets, response=entry.response, pathways=entry.pathways, footprints=entry.footprints
    )


@pytest.fixture(scope="module")
def genes() -> list[str]:
    return [str(gene) for gene in kang2018_mini().var_names]


@pytest.fixture(scope="module")
def response() -> Array:
    """The measured response of non-classical monocytes to interferon beta."""
    cells = kang2018_mini()
    own = (cells.obs["cell_type_ontology_id"] == "CL:0002396").to_numpy(dtype=bool, na_value=False)
    stimulated = (cells.obs["condition"] == "stim").to_numpy()
    return log_fold_change(cells[own & stimulated].X, cells[own & ~stimulated].X)


def score(lfc: Array, genes: list[str], name: str = "interferon beta") -> float:
    result = score_prediction(lfc, genes, expectation_of(name), load_knowledge())
    assert result.score is not None
    return result.score


def test_the_expected_response_scores_high_and_noise_low(genes: list[str], response: Array) -> None:
    assert score(response, genes) > 6.5
    noise = [score(np.random.default_rng(seed).normal(0, 0.1, len(genes)), genes) for seed in range(10)]
    assert np.mean(noise) < 2.0


def test_the_score_falls_when_the_changes_are_permuted(genes: list[str], response: Array) -> None:
    permuted = [score(np.random.default_rng(seed).permutation(response), genes) for seed in range(10)]
    assert np.mean(permuted) < 2.0
    assert score(response, genes) - max(permuted) > 3.0


def test_the_score_falls_when_the_knowledge_is_permuted(genes: list[str], response: Array) -> None:
    permuted = [
        score_prediction(response, genes, renamed(seed, genes), permute(seed, genes)).score or 1.0 for seed in range(5)
    ]
    assert np.mean(permuted) < 2.5
    assert score(response, genes) - max(permuted) > 3.0


def permute(seed: int, genes: list[str]) -> GroundingKnowledge:
    """The same knowledge about genes dealt out anew."""
    base = load_knowledge()
    new = dict(zip(genes, np.random.default_rng(seed).permutation(genes).tolist(), strict=True))
    sets = {name: frozenset(new.get(g, g) for g in members) for name, members in base.gene_sets.items()}
    footprints = {p: {new.get(g, g): w for g, w in weights.items()} for p, weights in base.footprints.items()}
    return dataclasses.replace(base, gene_sets=sets, footprints=footprints)


def renamed(seed: int, genes: list[str]) -> Expectation:
    new = dict(zip(genes, np.random.default_rng(seed).permutation(genes).tolist(), strict=True))
    base = expectation_of("interferon beta")
    response = tuple(ExpectedGene(gene=new.get(g.gene, g.gene), direction=g.direction) for g in base.response)
    targets = tuple(ExpectedGene(gene=new.get(g.gene, g.gene), direction=g.direction) for g in base.targets)
    return base.model_copy(update={"response": response, "targets": targets})


def test_the_opposite_response_scores_low(genes: list[str], response: Array) -> None:
    assert score(-response, genes) < 3.0


def test_another_perturbations_expectations_fit_less(genes: list[str], response: Array) -> None:
    own = score(response, genes)
    assert own > score(response, genes, "interferon gamma") > score(response, genes, "TGF-beta 1")
    assert score(response, genes, "ruxolitinib") < 3.0
    assert score(-response, genes, "ruxolitinib") > score(response, genes, "ruxolitinib")


def test_a_fainter_response_in_the_same_noise_scores_lower(genes: list[str], response: Array) -> None:
    noise = np.random.default_rng(1).normal(0, 0.3, len(genes))
    assert score(response + noise, genes) > score(0.2 * response + noise, genes)


def test_a_response_that_lifts_everything_is_not_specific(genes: list[str], response: Array) -> None:
    lifted = response.copy()
    members = set().union(*(load_knowledge().gene_sets[name] for name in load_knowledge().reference[:25]))
    lifted[[i for i, gene in enumerate(genes) if gene in members]] += 1.5
    assert score(lifted, genes) < score(response, genes)


def test_unknown_parts_are_left_out_and_named(genes: list[str], response: Array) -> None:
    result = score_prediction(response, genes, expectation_of("interferon beta"), load_knowledge())
    assert result.missing == ("literature",)
    known = [part for part in result.components if part.value is not None]
    mean = sum(p.weight * (p.value or 0) for p in known) / sum(p.weight for p in known)
    assert result.score == pytest.approx(1 + 9 * mean, abs=1e-5)


def test_nothing_expected_is_ungroundable_and_not_a_low_score(genes: list[str], response: Array) -> None:
    result = score_prediction(response, genes, Expectation(), load_knowledge())
    assert result.status is GroundingStatus.UNGROUNDABLE
    assert result.score is None
    assert "nothing is known" in result.reason


def test_targets_alone_are_too_little(genes: list[str], response: Array) -> None:
    targets = Expectation(targets=expectation_of("interferon beta").targets)
    result = score_prediction(response, genes, targets, load_knowledge())
    assert [part.name for part in result.components if part.value is not None] == ["network"]
    assert result.status is GroundingStatus.UNGROUNDABLE


def test_pathway_alone_is_too_little(genes: list[str], response: Array) -> None:
    pathway = Expectation(pathways=(ExpectedPathway(name="HALLMARK_INTERFERON_ALPHA_RESPONSE", direction="up"),))
    result = score_prediction(response, genes, pathway, load_knowledge())
    assert result.status is GroundingStatus.UNGROUNDABLE


def test_weights_come_from_the_configuration(genes: list[str], response: Array) -> None:
    config = GroundingConfig(pathway_weight=10.0)
    heavier = score_prediction(response, genes, expectation_of("interferon beta"), load_knowledge(), config)
    pathway = next(part for part in heavier.components if part.name == "pathway")
    assert pathway.weight == 10.0
    assert heavier.score != score(response, genes)


@pytest.mark.parametrize(
    ("lfc", "genes", "message"),
    [
        ([1.0, 2.0, 3.0], ["A", "B"], "found 3 and 2"),
        ([1.0, np.nan], ["A", "B"], "NaN"),
        ([1.0, 2.0], ["A", "A"], "repeated"),
        ([], [], "at least 2 genes"),
    ],
)
def test_changes_that_are_no_response_are_refused(lfc: list[float], genes: list[str], message: str) -> None:
    with pytest.raises(EvaluationError, match=message):
        score_prediction(lfc, genes, Expectation(), load_knowledge())


def test_auc_counts_pairs_with_ties_as_half() -> None:
    scores = np.array([3.0, 1.0, 2.0, 2.0])
    # members 3 and 2 against 1 and 2: 3>1, 3>2, 2>1, 2=2
    assert auc(scores, np.array([0, 2])) == pytest.approx(3.5 / 4)


def test_enrichment_is_zero_without_a_rise() -> None:
    scores = np.array([0.0, 0.0, 1.0, 1.0])
    assert enrichment(scores, np.array([0, 1]), 0.5) == 0.0
    assert enrichment(np.zeros(4), np.array([0, 1]), 0.0) == 0.0


def test_neighbours_share_small_sets_with_the_targets() -> None:
    knowledge = GroundingKnowledge(
        gene_sets={"small": frozenset("ABC"), "large": frozenset("ABDEFGH"), "one": frozenset("AXY")},
        reference=(),
        network=("small", "large", "one"),
        footprints={},
        version="test",
    )
    assert knowledge.neighbours(["A", "B"], max_set=5) == {"C"}
    assert knowledge.neighbours(["A"], max_set=5) == {"B", "C", "X", "Y"}
    assert knowledge.neighbours([], max_set=5) == frozenset()
