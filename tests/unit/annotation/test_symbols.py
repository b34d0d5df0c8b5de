import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gca_core.annotation.markers.symbols import check_species, current_symbols, find_symbols, without_version
from gca_core.errors import DataValidationError

HUMAN = ["CD3D", "CD3E", "MS4A1", "HLA-DRA", "LYZ", "NKG7"]
MOUSE = ["Cd3d", "Cd3e", "Ms4a1", "H2-Aa", "Lyz2", "Nkg7"]
IDS = [f"ENSG{i:011d}" for i in range(6)]


def table(names, **columns) -> pd.DataFrame:
    return pd.DataFrame(columns, index=pd.Index(names, dtype=object))


def test_symbols_are_taken_as_they_are():
    assert find_symbols(table(HUMAN, gene_name=list("abcdef")), "X", species="human") == HUMAN


@pytest.mark.parametrize("ids", [IDS, [f"{i}.12" for i in IDS], [i.lower() for i in IDS]])
def test_ensembl_ids_are_mapped_through_a_column_of_symbols(ids):
    assert find_symbols(table(ids, feature_name=HUMAN), "X", species="human") == HUMAN


def test_genes_without_a_symbol_keep_their_id_without_its_version():
    var = table([f"{i}.3" for i in IDS], symbol=["CD3D", None, "", "nan", "LYZ", "NKG7"])
    assert find_symbols(var, "X", species="human") == ["CD3D", *IDS[1:4], "LYZ", "NKG7"]


def test_a_column_without_symbols_is_refused():
    with pytest.raises(DataValidationError, match="no column of var holds their symbols"):
        find_symbols(table(IDS, symbol=IDS), "X", species="human")


def test_ensembl_ids_without_symbols_are_refused_with_the_option_that_settles_it():
    with pytest.raises(DataValidationError, match=r"X are Ensembl ids \(ENSG.*gene_symbols"):
        find_symbols(table(IDS, other=HUMAN), "X", species="human")
    assert find_symbols(table(IDS, other=HUMAN), "X", species="human", column="other") == HUMAN


def test_a_column_that_is_named_is_used_whatever_the_names_are():
    assert find_symbols(table(list("abcdef"), other=HUMAN), "X", species="human", column="other") == HUMAN
    with pytest.raises(DataValidationError, match=r"no column 'nope' in the gene table of X; found 'other'"):
        find_symbols(table(IDS, other=HUMAN), "X", species="human", column="nope")


def test_two_columns_of_symbols_that_differ_have_to_be_chosen_from():
    var = table(IDS, gene_symbols=HUMAN, gene_name=HUMAN[::-1])
    with pytest.raises(DataValidationError, match="gene_symbols, gene_name; name one of them"):
        find_symbols(var, "X", species="human")
    assert find_symbols(table(IDS, gene_symbols=HUMAN, gene_name=HUMAN), "X", species="human") == HUMAN


def test_raw_finds_its_symbols_in_the_other_gene_table():
    found = find_symbols(table(IDS), "raw", species="human", fallback=table(IDS[:5], symbol=HUMAN[:5]))
    assert found == [*HUMAN[:5], IDS[5]]


@pytest.mark.parametrize(("prefix", "species", "other"), [("ENSMUSG", "human", "mouse"), ("ENSG", "mouse", "human")])
def test_ensembl_ids_of_another_species_are_refused(prefix, species, other):
    var = table([f"{prefix}{i:011d}" for i in range(6)], symbol=HUMAN)
    with pytest.raises(DataValidationError, match=f"set the species to {other}"):
        find_symbols(var, "X", species=species)


def test_symbols_of_another_species_are_refused_with_what_to_do():
    with pytest.raises(DataValidationError, match=r"mouse symbols \(Cd3d.*set the species to mouse"):
        check_species(MOUSE, "X", "human")
    with pytest.raises(DataValidationError, match=r"human symbols \(CD3D.*set the species to human"):
        check_species(HUMAN, "X", "mouse")
    check_species(HUMAN, "X", "human")
    check_species(MOUSE, "X", "mouse")


@pytest.mark.parametrize("species", ["human", "mouse"])
def test_symbols_of_two_species_are_refused(species):
    with pytest.raises(DataValidationError, match="symbols of two species"):
        check_species(HUMAN + MOUSE, "X", species)


def test_symbols_are_spelled_as_the_marker_database_has_them(database):
    assert current_symbols(["cd3e", "IGJ", "CD3E", "Unheard-of", ""], database) == [
        "CD3E",
        "JCHAIN",
        "CD3E",
        "Unheard-of",
        "",
    ]


@given(st.from_regex(r"ENS([A-Z]{3})?G[0-9]{11}", fullmatch=True), st.integers(1, 99))
def test_versions_are_stripped_of_ids_alone(identifier, version):
    assert without_version(f"{identifier}.{version}") == identifier
    assert without_version(f"AC{version}.{version}") == f"AC{version}.{version}"


@given(st.lists(st.text(max_size=12), max_size=20), st.sampled_from(["human", "mouse"]))
def test_any_names_are_taken_or_refused_with_a_reason(names, species):
    try:
        found = find_symbols(table(names), "X", species=species)
    except DataValidationError as error:
        assert "species" in str(error) or "gene_symbols" in str(error)
    else:
        assert len(found) == len(names)
