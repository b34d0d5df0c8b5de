import dataclasses

import numpy as np
import numpy.typing as npt
import pytest

from gca_core.datasets import kang2018_mini
from gca_core.errors import EvaluationError
from gca_core.grounding.knowledge import GroundingKnowledge, load_knowledge
from gca_core.grounding.models import (
    ActionKind,
    Expectation,
    GeneEvidence,
    GroundingConfig,
    GroundingScore,
    GroundingStatus,
    Literature,
)
from gca_core.grounding.score import score_prediction, score_response
from gca_core.knowledge.bundled.catalogue import ExpectedGene, ExpectedPathway, load_catalogue
from gca_core.matrix.compare import log_fold_change
from gca_core.matrix.differential import differential_expression
from gca_core.matrix.normalise import log_normalise

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


def test_parts_go_from_1_to_10_with_their_numbers_and_old_scores_are_read(genes: list[str], response: Array) -> None:
    result = score_prediction(response, genes, expectation_of("interferon beta"), load_knowledge())
    for part in result.components:
        assert (part.score is None) == (part.value is None) == bool(part.detail)
        assert part.score is None or (1 <= part.score <= 10 and part.figures)
    assert [part.weight for part in result.components] == [0.25, 0.30, 0.25, 0.20]
    assert GroundingScore.model_validate_json(result.model_dump_json()) == result
    old = {"status": "scored", "score": 7.1, "components": [{"name": "pathway", "value": 0.5, "weight": 0.35}]}
    assert GroundingScore.model_validate(old).components[0].score == 5.5


def test_the_score_of_cells_says_what_is_in_them() -> None:
    cells = kang2018_mini()
    stim = (cells.obs["condition"] == "stim").to_numpy()
    log = log_normalise(cells.X)
    found = differential_expression(log[stim], log[~stim], cells.var_names.tolist())
    result = score_response(found, expectation_of("interferon beta"), load_knowledge())
    assert (result.score or 0) > 6.5
    assert result.de_genes_up[0] == found.strongest("up")[0]
    assert (result.n_de_up, result.n_de_down) == (len(found.strongest("up")), len(found.strongest("down")))
    assert len(result.de_genes_up) <= 50
    enriched = {pathway.name: pathway for pathway in result.enriched_pathways}
    interferon = enriched["HALLMARK_INTERFERON_ALPHA_RESPONSE"]
    assert interferon.direction == "up"
    assert max(interferon.padj, interferon.overlap_padj) < 1e-6
    assert {pathway.collection for pathway in result.enriched_pathways} == {"hallmark", "reactome", "go_bp"}
    assert result.improvement_suggestions == ()


def test_suggestions_name_what_is_missing_and_what_goes_the_wrong_way(genes: list[str], response: Array) -> None:
    against = score_prediction(-response, genes, expectation_of("interferon beta"), load_knowledge())
    asked = {(s.action, s.subject, s.direction) for s in against.improvement_suggestions}
    assert (ActionKind.REVERSE, "HALLMARK_INTERFERON_ALPHA_RESPONSE", "up") in asked
    assert (ActionKind.REVERSE, "JAK-STAT", "up") in asked
    assert (ActionKind.REVERSE, "ISG15", "up") in asked
    noise = np.random.default_rng(0).normal(0, 0.1, len(genes))
    weak = score_prediction(noise, genes, expectation_of("interferon beta"), load_knowledge())
    assert ActionKind.STRENGTHEN in {s.action for s in weak.improvement_suggestions}


def test_cells_like_their_control_leave_an_empty_list_and_no_network() -> None:
    log = log_normalise(kang2018_mini().X)[:50]
    found = differential_expression(log, log, kang2018_mini().var_names.tolist())
    result = score_response(found, expectation_of("interferon beta"), load_knowledge())
    assert result.de_genes_up == result.de_genes_down == result.enriched_pathways == ()
    assert "network" in result.missing
    assert ActionKind.ENLARGE in {s.action for s in result.improvement_suggestions}
    assert result.score == 1.0


@pytest.mark.parametrize(("cells", "named", "known"), [(1, True, True), (50, False, False)])
def test_one_cell_is_scored_and_unknown_genes_are_not(cells: int, named: bool, known: bool) -> None:
    log = log_normalise(kang2018_mini().X)
    genes = kang2018_mini().var_names.tolist() if named else [f"ENSG{i}" for i in range(log.shape[1])]
    found = differential_expression(log[:cells], log[cells : 2 * cells], genes)
    result = score_response(found, expectation_of("interferon beta"), load_knowledge())
    assert (result.status is GroundingStatus.SCORED) is known
    assert known == (result.score is not None and result.score < 3)


def test_literature_against_a_gene_weighs_more_than_silence(genes: list[str]) -> None:
    cells = kang2018_mini()
    stim = (cells.obs["condition"] == "stim").to_numpy()
    log = log_normalise(cells.X)
    found = differential_expression(log[stim], log[~stim], cells.var_names.tolist())

    def scored(*evidence: GeneEvidence) -> GroundingScore:
        literature = Literature(evidence=evidence)
        return score_response(found, expectation_of("interferon beta"), load_knowledge(), literature=literature)

    said = GeneEvidence(gene="ISG15", direction="up", publications=200, in_cell_type=50, supporting=40, contradicting=3)
    silent = GeneEvidence(gene="XYZ", direction="up")
    against = GeneEvidence(gene="XYZ", direction="up", publications=30, supporting=1, contradicting=9)
    scores = [scored(said), scored(said, silent), scored(said, against)]
    parts = [next(p.score for p in s.components if p.name == "literature") for s in scores]
    assert parts[0] > parts[1] > parts[2] >= 1
    assert scores[0].literature_evidence == (said,)
    assert any(s.subject == "XYZ" and s.component == "literature" for s in scores[2].improvement_suggestions)


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
