import numpy as np
import pytest
import scipy.sparse as sp
from sklearn.metrics import f1_score, roc_auc_score

from gca_core.errors import DataValidationError
from gca_core.latent.evaluation.evaluate import (
    evaluable_cells,
    evaluate_latent,
    held_out_cells,
    label_scores,
    principal_components,
)
from tests.helpers.latent_counts import counts_with_groups


def labelled() -> tuple[sp.csr_matrix, np.ndarray]:
    cells = counts_with_groups()
    return sp.csr_matrix(cells.X), cells.obs["group"].to_numpy().astype(object)


def one_hot(labels: np.ndarray) -> np.ndarray:
    return np.array([[float(label == name) for name in "abc"] for label in labels])


def test_a_perfect_latent_space_scores_one_and_noise_scores_chance() -> None:
    counts, labels = labelled()
    perfect = evaluate_latent(one_hot(labels), counts, labels)
    noise = evaluate_latent(np.random.default_rng(0).normal(size=(150, 3)), counts, labels)
    for classifier in ("knn", "logistic_regression"):
        assert perfect.score("latent", classifier).macro_f1 == 1
        assert noise.score("latent", classifier).macro_f1 < 0.5
        assert perfect.score("pca", classifier) == noise.score("pca", classifier)
    assert perfect.score("genes", "logistic_regression").macro_f1 > 0.9


def test_the_per_class_table_agrees_with_the_summary() -> None:
    counts, labels = labelled()
    noisy = one_hot(labels) + np.random.default_rng(0).normal(0, 0.6, (150, 3))
    for score in evaluate_latent(noisy, counts, labels).scores:
        assert score.macro_f1 == pytest.approx(np.mean([row.f1 for row in score.per_class]), abs=1e-5)
        correct = sum(row.recall * row.n_cells for row in score.per_class)
        assert score.accuracy == pytest.approx(correct / 150, abs=1e-5)
        assert [row.label for row in score.per_class] == ["a", "b", "c"]
        assert len(score.fold_macro_f1) == 5


def test_knn_scores_come_from_cells_whose_labels_were_not_seen() -> None:
    # each cell is its own nearest neighbour: with k = 1 a leak would score one
    counts, labels = labelled()
    latent = np.random.default_rng(0).normal(size=(150, 2))
    assert evaluate_latent(latent, counts, labels, knn_neighbors=1).score("latent", "knn").accuracy < 0.6


def test_rare_and_missing_labels_are_left_out_and_named() -> None:
    counts, labels = labelled()
    latent = one_hot(labels)
    labels[:3] = "rare"
    labels[3:10] = None
    evaluation = evaluate_latent(latent, counts, labels)
    assert evaluation.left_out == {"rare": 3}
    assert evaluation.n_unlabelled == 7
    assert evaluation.n_cells == 140
    assert {row.label for row in evaluation.scores[0].per_class} == {"a", "b", "c"}


@pytest.mark.parametrize("labels", [["a"] * 60, ["a"] * 57 + ["b"] * 3, [None] * 60])
def test_a_single_class_is_refused(labels: list[str | None]) -> None:
    with pytest.raises(DataValidationError, match="at least two labels with 5 cells each; found"):
        evaluable_cells(np.array(labels, dtype=object), n_folds=5, knn_neighbors=15)


def test_fewer_cells_than_neighbours_are_refused() -> None:
    labels = np.array(["a"] * 8 + ["b"] * 8 + [None] * 100, dtype=object)
    with pytest.raises(DataValidationError, match="16 labelled cells leave 12"):
        evaluable_cells(labels, n_folds=5, knn_neighbors=15)


@pytest.mark.parametrize("max_dense_genes", [0, 2000])
def test_components_are_those_of_the_singular_value_decomposition(monkeypatch, max_dense_genes):
    monkeypatch.setattr("gca_core.latent.evaluation.evaluate.MAX_DENSE_GENES", max_dense_genes)
    counts, _ = labelled()
    found = principal_components(counts, 3)
    dense = counts.toarray().astype(float)
    u, s, _ = np.linalg.svd(dense - dense.mean(axis=0), full_matrices=False)
    np.testing.assert_allclose(np.abs(found), np.abs(u[:, :3] * s[:3]), rtol=1e-3, atol=1e-3)
    assert principal_components(counts[:5], 40).shape == (5, 4)


def test_scores_are_scikit_learns() -> None:
    from sklearn.model_selection import StratifiedKFold, cross_val_predict
    from sklearn.neighbors import KNeighborsClassifier

    counts, labels = labelled()
    latent = one_hot(labels) + np.random.default_rng(3).normal(0, 0.5, (150, 3))
    folds = StratifiedKFold(5, shuffle=True, random_state=11)
    answers = cross_val_predict(KNeighborsClassifier(15), latent, labels.astype(str), cv=folds)
    expected = f1_score(labels.astype(str), answers, average="macro")
    found = evaluate_latent(latent, counts, labels, seed=11).score("latent", "knn").macro_f1
    assert found == pytest.approx(expected, abs=1e-6)


def test_held_out_cells_alone_are_asked_about_and_pca_has_not_seen_them() -> None:
    counts, labels = labelled()
    test = np.arange(100, 150)
    latent = one_hot(labels)
    evaluation = evaluate_latent(latent, counts, labels, test_cells=test)
    assert (evaluation.protocol, evaluation.n_folds, evaluation.n_cells) == ("held out", 1, 50)
    assert evaluation.score("latent", "knn").macro_f1 == evaluation.score("latent", "knn").auroc == 1
    assert sum(row.n_cells for row in evaluation.scores[0].per_class) == 50
    learnt = np.arange(100)
    other = counts.copy()
    other[test] = counts[test][:, ::-1]
    one, two = (np.abs(principal_components(x, 2, learnt)[learnt]) for x in (counts, other))
    np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-4)


def test_labels_that_only_test_cells_have_are_left_out_and_named() -> None:
    counts, labels = labelled()
    labels[140:] = "new"
    labels[100:105] = None
    evaluation = evaluate_latent(one_hot(labels), counts, labels, test_cells=np.arange(100, 150))
    assert evaluation.left_out == {"new": 10}
    assert (evaluation.n_cells, evaluation.n_unlabelled) == (35, 5)
    with pytest.raises(DataValidationError, match="none of the 10 test cells"):
        held_out_cells(labels, np.arange(140, 150), knn_neighbors=5)
    with pytest.raises(DataValidationError, match="found 0 labels and 0 cells"):
        held_out_cells(labels, np.arange(150), knn_neighbors=5)


def test_the_area_under_the_curve_is_scikit_learns_one_against_the_rest() -> None:
    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet(np.ones(3), 90)
    classes, truth = np.array(["a", "b", "c"]), np.array(["a", "b", "c"] * 30)
    expected = roc_auc_score(truth, probabilities, multi_class="ovr", average="macro")
    assert label_scores(truth, probabilities, classes)["auroc"] == pytest.approx(expected, abs=1e-6)
    assert label_scores(truth[:1], probabilities[:1], classes)["auroc"] is None


def test_baselines_can_be_normalised_by_the_whole_library() -> None:
    counts, labels = labelled()
    library = np.asarray(counts.sum(axis=1)).ravel()
    plain = evaluate_latent(one_hot(labels), counts, labels)
    same = evaluate_latent(one_hot(labels), counts, labels, library=library)
    assert same.score("genes", "logistic_regression").macro_f1 == plain.score("genes", "logistic_regression").macro_f1
