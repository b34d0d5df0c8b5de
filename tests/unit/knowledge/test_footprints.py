from gca_core.knowledge.bundled.footprints import load_footprints


def test_there_are_fourteen_signed_footprints() -> None:
    footprints = load_footprints()
    assert len(footprints) == 14
    assert {len(genes) for genes in footprints.values()} == {200}
    assert any(weight < 0 for genes in footprints.values() for weight in genes.values())


def test_interferon_genes_rise_with_jak_stat() -> None:
    assert load_footprints()["JAK-STAT"]["IFIT1"] > 0
