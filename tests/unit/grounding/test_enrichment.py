import numpy as np
import pytest
from scipy import stats

from gca_core.errors import DataValidationError
from gca_core.grounding.components import Response, set_strengths
from gca_core.grounding.enrichment import (
    SetMatrix,
    bundled_sets,
    enrichment_table,
    over_representation,
    rank_sums,
    read_gmt,
)

GENES = [f"g{i}" for i in range(60)]
SETS = {"a": GENES[:12], "b": GENES[5:40:3], "few": GENES[:3], "elsewhere": ["x", "y"]}


@pytest.fixture
def sets() -> SetMatrix:
    return SetMatrix.of({"mine": SETS}, GENES)


def test_sets_of_too_few_measured_genes_are_left_out(sets):
    assert sets.names == ("a", "b")
    assert sets.size.tolist() == [12, 12]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("measured", [60, 45])
def test_tests_are_those_of_the_definitions(sets, seed, measured):
    rng = np.random.default_rng(seed)
    scores = rng.integers(-3, 4, 60).astype(float)
    background = np.arange(60) < measured
    hits = scores > 1
    overlap, p = over_representation(sets, hits, background)
    z, ranked_p = rank_sums(sets, scores, background)
    for i, name in enumerate(sets.names):
        member = np.isin(GENES, SETS[name]) & background
        table = [
            [(hits & member)[background].sum(), (~hits & member)[background].sum()],
            [(hits & ~member)[background].sum(), (~hits & ~member)[background].sum()],
        ]
        assert overlap[i] == table[0][0]
        assert p[i] == pytest.approx(stats.fisher_exact(table, alternative="greater").pvalue)
        inside, outside = scores[member], scores[background & ~member]
        peer = stats.mannwhitneyu(inside, outside, use_continuity=False, method="asymptotic")
        assert ranked_p[i] == pytest.approx(peer.pvalue)
        assert np.sign(z[i]) == np.sign(peer.statistic - len(inside) * len(outside) / 2)


def test_strength_needs_rank_and_size(sets):
    scores = np.linspace(1, -1, 60)
    strengths = set_strengths(Response.of(scores, GENES, scores > 0.5), sets)
    member = np.isin(GENES, SETS["a"])
    area = stats.mannwhitneyu(scores[member], scores[~member]).statistic / (12 * 48)
    d = (scores[member].mean() - scores[~member].mean()) / scores.std()
    assert strengths[0] == pytest.approx(np.sqrt((2 * area - 1) * d / (d + 1)))
    assert set_strengths(Response.of(-scores, GENES, scores > 2), sets)[0] == pytest.approx(-strengths[0])
    assert (set_strengths(Response.of(np.zeros(60), GENES, scores > 2), sets) == 0).all()


def test_the_table_has_both_tests_and_adjusts_within_a_collection(sets):
    scores = np.linspace(1, -1, 60)
    two = SetMatrix.of({"mine": SETS, "other": {"a": SETS["a"]}}, GENES)
    alone, joined = (enrichment_table(s, scores, np.abs(scores) > 0.7) for s in (sets, two))
    assert alone.iloc[0]["name"] == "a"
    assert alone.iloc[0]["overlap_up"] == 9
    assert alone.iloc[0]["overlap_down"] == 0
    mine = joined[joined["collection"] == "mine"].reset_index(drop=True)
    assert mine.equals(alone)
    empty = enrichment_table(sets, np.zeros(60), np.zeros(60, bool), np.zeros(60, bool))
    assert (empty["p"] == 1).all()


def test_a_users_gmt_stands_beside_the_bundled_sets(tmp_path):
    path = tmp_path / "mine.gmt"
    path.write_text("my set\thttps://example.org\tISG15\tMX1\tIFI6\tIFIT1\tOAS1\t\n\n")
    genes = ("ISG15", "MX1", "IFI6", "IFIT1", "OAS1", "STAT1", "JUN")
    found = bundled_sets(genes, (str(path),))
    assert "my set" in found.names
    assert {"go_bp", str(path)} <= set(found.collections)
    for text, message in (("only a name\tdescription", "line 1 .* has no genes"), ("", "holds no gene set")):
        path.write_text(text)
        with pytest.raises(DataValidationError, match=message):
            read_gmt(str(path))
