"""Search on a real server: exact and by index, with filters, and by names."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psycopg
import pytest
from pgvector.psycopg import register_vector

from gca_core.atlas import Atlas, IngestReport, search
from gca_core.atlas.explore import Explorer
from gca_core.atlas.ingest import ingest
from gca_core.atlas.ingest.names import NameResolver
from gca_core.errors import CellRetrievalError, StoreError
from gca_core.llm.embeddings import HashedTextEmbeddings
from gca_core.store.connect import connect
from gca_core.store.migrations import migrate
from gca_core.store.redact import make_dsn, parse_dsn
from tests.helpers.atlas_cells import CELL_TYPES, ingest_config, make_cells

N_TEXTS = 400
MODEL = "random-1536"


@pytest.fixture(scope="module")
def vectors() -> np.ndarray:
    """Clustered, with two that are the same."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(20, 1536))
    made = centres[np.arange(N_TEXTS) % 20] + 0.7 * rng.normal(size=(N_TEXTS, 1536))
    made[11] = made[10]
    return (made / np.linalg.norm(made, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def filled(admin_dsn: str, gca_home: Path, vectors: np.ndarray) -> Iterator[Atlas]:
    """A database of its own with 400 group texts: 40 perturbations in 10 cell types, two donors each."""
    from gca_core.store.layout import SUPERUSER, read_credentials

    superuser = parse_dsn(admin_dsn) | {"user": SUPERUSER, "password": read_credentials(gca_home)[SUPERUSER]}
    with connect(make_dsn(**superuser), autocommit=True) as connection:
        connection.execute("drop database if exists search with (force)")
        connection.execute("create database search owner gca_admin")
    dsn = make_dsn(**(superuser | {"dbname": "search"}))
    migrate(dsn)
    with connect(dsn) as connection:
        register_vector(connection)
        fill(connection, vectors)
    yield Atlas(dsn, "file:///nowhere")
    from gca_core.store.pool import close_pools

    close_pools()
    with connect(make_dsn(**superuser), autocommit=True) as connection:
        connection.execute("drop database search with (force)")


def name_of(row: int) -> tuple[str, str]:
    return f"p{row // 10:02d}", f"CL:{row % 10:07d}"


def fill(connection: psycopg.Connection, vectors: np.ndarray) -> None:
    connection.execute(
        "insert into datasets (dataset, store_uri, content_hash, n_cells, n_groups, n_genes, embedding_model, report) "
        "select 'set' || i, '', '', 1, 1, 1, %s, '{}' from generate_series(0, 1) i",
        [MODEL],
    )
    perturbations, types = sorted({name_of(i)[0] for i in range(N_TEXTS)}), sorted({name_of(i)[1] for i in range(10)})
    with connection.cursor() as cursor:
        cursor.executemany(
            "insert into perturbations values (%s, %s, %s)", [(p, vectors[0], MODEL) for p in perturbations]
        )
        cursor.executemany("insert into cell_types values (%s, %s, %s, %s)", [(t, t, vectors[0], MODEL) for t in types])
        cursor.executemany(
            "insert into group_texts values (%s, %s, %s, %s, %s)",
            [(*name_of(i), f"text {i}", vectors[i], MODEL) for i in range(N_TEXTS)],
        )
        cursor.executemany(
            "insert into cell_groups (group_id, dataset, perturbation, is_control, cell_type_id, donor, n_cells, "
            "row_start, row_stop) values (%s, %s, %s, %s, %s, %s, 1, 0, 1)",
            [
                (f"g-{i:04d}-{d}", f"set{d}", name_of(i)[0], i < 10, name_of(i)[1], f"d{d}")
                for i in range(N_TEXTS)
                for d in (0, 1)
            ],
        )


def truth(vectors: np.ndarray, query: np.ndarray, keep: Callable[[int], bool] = lambda _row: True) -> list[str]:
    """Group ids by distance, then id."""
    distances = np.round(1 - vectors.astype(np.float64) @ query, 6)
    rows = [(distances[i], f"g-{i:04d}-{d}") for i in range(N_TEXTS) for d in (0, 1) if keep(i)]
    return [group_id for _, group_id in sorted(rows)]


@pytest.fixture
def indexed(filled: Atlas, monkeypatch: pytest.MonkeyPatch) -> Iterator[Atlas]:
    """The same with an index, as if 400 were many."""
    monkeypatch.setattr(search, "INDEX_FROM", N_TEXTS)
    with connect(filled.dsn, autocommit=True) as connection:
        search.keep_indexes(connection)
        # so few rows are read faster without it
        yield Atlas(make_dsn(**(parse_dsn(filled.dsn) | {"options": "-c enable_seqscan=off"})), "file:///nowhere")
        monkeypatch.undo()
        search.keep_indexes(connection)
        assert connection.execute("select to_regclass('group_texts_embedding_hnsw')").fetchone() == (None,)


def test_exact_search_is_the_brute_force_order_and_breaks_ties_by_id(filled: Atlas, vectors: np.ndarray) -> None:
    query = vectors[10]
    hits = filled.semantic(query.tolist(), limit=30)
    assert [hit.id for hit in hits] == truth(vectors, query)[:30]
    # two texts of one vector, two donors of one text
    assert [hit.id for hit in hits[:4]] == ["g-0010-0", "g-0010-1", "g-0011-0", "g-0011-1"]
    assert hits[0].similarity == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("with_index", [False, True])
def test_filters_hold_and_leave_no_hit_out(filled, vectors, request, with_index):
    atlas = request.getfixturevalue("indexed") if with_index else filled
    query = (vectors[3] + vectors[50]).tolist()
    wanted = {
        "cell_type_ids": (["CL:0000003"], lambda i: i % 10 == 3),
        "perturbations": (["p05"], lambda i: i // 10 == 5),
        "exclude_perturbations": (["p05", "p00"], lambda i: i // 10 not in {0, 5}),
        "is_control": (True, lambda i: i < 10),
    }
    for name, (value, keep) in wanted.items():
        found = [hit.id for hit in atlas.semantic(query, limit=20, **{name: value})]
        expected = truth(vectors, np.array(query) / np.linalg.norm(query), keep)[:20]
        assert found == expected, name
    both = [hit.id for hit in atlas.semantic(query, limit=20, cell_type_ids=["CL:0000003"], is_control=False)]
    wanted_rows = truth(vectors, np.array(query) / np.linalg.norm(query), lambda i: i % 10 == 3 and i >= 10)
    assert both == wanted_rows[:20]
    in_one = atlas.semantic(query, limit=20, dataset="set1")
    assert len(in_one) == 20
    assert all(hit.id.endswith("-1") for hit in in_one)


def test_the_index_is_used_and_finds_nearly_all(indexed: Atlas, vectors: np.ndarray) -> None:
    with connect(indexed.dsn) as connection:
        assert search._prepare_index(connection, "group", 20)
        settings = "select current_setting('hnsw.ef_search'), current_setting('hnsw.iterative_scan')"
        assert connection.execute(settings.encode()).fetchone() == ("100", "strict_order")
        plan = connection.execute(
            ("explain " + search._query("group", [], exact=False)).encode(),
            {"vector": str(vectors[0].tolist()), "limit": 20, "nearest": 5, "paired": 50, "types": 3},
        ).fetchall()
    assert "group_texts_embedding_hnsw" in str(plan)
    found = [{hit.id for hit in indexed.semantic(vector.tolist(), limit=40)} for vector in vectors[:50]]
    expected = [set(truth(vectors, vector)[:40]) for vector in vectors[:50]]
    assert np.mean([len(a & b) / 40 for a, b in zip(found, expected, strict=True)]) > 0.97


@pytest.mark.parametrize(
    ("pairs", "filters", "keep"),
    [
        ((1000, 1000), search.Filters(), lambda _row: True),
        ((1000, 1), search.Filters(cell_type_ids=["CL:0000003"]), lambda i: i % 10 == 3),
        ((1, 1000), search.Filters(perturbations=["p03"]), lambda i: i // 10 == 3),
    ],
)
def test_the_nearest_of_what_filters_leave_are_looked_at_besides_the_index(
    indexed: Atlas,
    vectors: np.ndarray,
    monkeypatch: pytest.MonkeyPatch,
    pairs: tuple[int, int],
    filters: search.Filters,
    keep: Callable[[int], bool],
) -> None:
    """The index is made to give up after one candidate, and the pairs are all there are."""
    monkeypatch.setattr(search, "NEAREST_PERTURBATIONS", 0)
    monkeypatch.setattr(search, "NEAREST_PAIRS", pairs)
    with connect(indexed.dsn) as connection:
        connection.execute("set local hnsw.ef_search = 1")
        connection.execute("set local hnsw.iterative_scan = off")
        connection.execute("set local enable_sort = off")
        for vector in vectors[:20]:
            values = {**filters.values(), "vector": vector, "limit": 5}
            found, _complete = search._run(connection, "group", filters, values, exact=False)
            assert [hit.id for hit in found] == truth(vectors, vector, keep)[:5]


def test_a_search_without_the_index_takes_no_order_from_it(indexed: Atlas) -> None:
    """Sorted by distance, then id: the planner would let the index give the former, and so leave out what it missed."""
    with connect(indexed.dsn) as connection:
        for filters, few in [(search.Filters(), False), (search.Filters(cell_type_ids=["x"], dataset="set1"), True)]:
            plan = connection.execute(
                ("explain " + search._query("group", filters.conditions(), exact=True, few=few)).encode(),
                {**filters.values(), "vector": str([1.0] * 1536), "limit": 20},
            ).fetchall()
            assert "group_texts" in str(plan)
            assert "hnsw" not in str(plan)


def test_more_hits_than_an_index_can_give_are_all_found(indexed: Atlas, vectors: np.ndarray) -> None:
    hits = indexed.semantic(vectors[10].tolist(), limit=search.MAX_EF_SEARCH + 1)
    assert [hit.id for hit in hits] == truth(vectors, vectors[10])


def test_few_texts_are_searched_without_the_index(indexed: Atlas, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the 400 texts 120 are of three cell types, 30 of three perturbations, and 9 of both."""
    types, names = ["CL:0000001", "CL:0000002", "CL:0000003"], ["p01", "p02", "p03"]
    cases = [
        (search.Filters(cell_type_ids=types), 120),
        (search.Filters(perturbations=names), 30),
        (search.Filters(cell_type_ids=types, perturbations=names), 9),
        (search.Filters(cell_type_ids=types, exclude_perturbations=["p01"]), 117),
    ]
    with connect(indexed.dsn) as connection:
        for filters, count in cases:
            monkeypatch.setattr(search, "EXACT_UP_TO", count)
            assert search._prepare_few(connection, "group", filters)
            monkeypatch.setattr(search, "EXACT_UP_TO", count - 1)
            assert not search._prepare_few(connection, "group", filters)
        monkeypatch.undo()
        assert not search._prepare_few(connection, "group", search.Filters(is_control=True))
        assert not search._prepare_few(connection, "perturbation", search.Filters(perturbations=names))


@pytest.mark.parametrize(
    ("vector", "refusal"),
    [
        ([1.0, 2.0], "different vector dimensions"),
        ([], "at least 1 dimension"),
        ([1.0] * 70_000, "more than 16000"),
        ([float("nan")] * 1536, "finite"),
    ],
)
def test_a_vector_that_is_no_embedding_is_refused(filled: Atlas, vector: list[float], refusal: str) -> None:
    with pytest.raises(StoreError, match=refusal):
        filled.semantic(vector)


def test_candidates_grow_with_the_hits_asked_for() -> None:
    assert [search.ef_search(limit) for limit in (1, 100, 5000)] == [100, 200, 1000]


def test_a_similarity_can_be_asked_for(filled: Atlas, vectors: np.ndarray) -> None:
    hits = filled.semantic(vectors[10].tolist(), limit=30, min_similarity=0.999)
    assert len(hits) == 4


@pytest.fixture(scope="module")
def named(admin_atlas: Atlas, tmp_path_factory: pytest.TempPathFactory) -> IngestReport:
    """Cells with tissues and names that have synonyms."""
    cells = make_cells(7)
    cells.obs["organ"] = np.where(np.arange(cells.n_obs) % 2, "Blood", "Mars")
    cells.var_names = ["MT-CO1", *cells.var_names[1:]]
    path = tmp_path_factory.mktemp("named") / "cells.h5ad"
    cells.write_h5ad(path)
    words = NameResolver(
        CELL_TYPES.get,
        label_cell_type={"CL:0000624": "CD4-positive T cell", "CL:0000236": "B cell", "CL:0000623": "NK cell"}.get,
        resolve_perturbation={"ifnb": "interferon beta"}.get,
        resolve_tissue={"Blood": "UBERON:0000178"}.get,
        label_tissue={"UBERON:0000178": "blood"}.get,
        synonyms=lambda kind, _name: {"perturbation": ("IFN-β", "IFNB1"), "cell_type": ("lymphocyte B",)}.get(kind, ()),
        names=tuple(f"name number {i} of {i * i}" for i in range(20)),
    )
    config = ingest_config(path, "named", tissue_column="organ", perturbation_names={"stim": "interferon beta"})
    embeddings = HashedTextEmbeddings()
    return ingest(config, admin_atlas, embed=embeddings.embed_documents, resolver=words)


def test_names_and_synonyms_are_found_however_they_are_spelled(named: IngestReport, atlas: Atlas) -> None:
    for text in ("ifn beta", "IFNB1", "interferon-beta", "stim"):
        # other datasets of this server may have called theirs the same
        same = atlas.find_names(text, kind="perturbation", min_similarity=1.0)
        assert "interferon beta" in {hit.id for hit in same}, text
    assert atlas.find_names("Interferon betta")[0].id == "interferon beta"
    assert atlas.find_names("B cells", kind="cell_type")[0].id == "CL:0000236"
    assert atlas.find_names("blod", kind="tissue")[0].label == "blood"
    assert atlas.find_names("something else entirely", min_similarity=0.8) == []


def test_tissues_are_kept_and_searched(named: IngestReport, atlas: Atlas) -> None:
    assert named.unmapped_tissues == {"Mars": 120}
    groups = atlas.groups(dataset="named", tissue_ids=["UBERON:0000178"])
    assert groups
    assert {(group.tissue_id, group.tissue) for group in groups} == {("UBERON:0000178", "blood")}
    vector = HashedTextEmbeddings().embed_query("interferon beta in B cell")
    hits = atlas.semantic(vector, tissue_ids=["UBERON:0000178"], dataset="named", is_control=False)
    assert {hit.id for hit in hits} == {group.group_id for group in groups if not group.is_control}
    assert hits[0].label == "interferon beta in B cell"


def test_cells_have_quality_figures(named: IngestReport, atlas: Atlas) -> None:
    with connect(atlas.dsn) as connection:
        query = "select count(*), min(n_counts), max(mito_fraction), count(mito_fraction) from cells where dataset = %s"
        count, least, most, known = connection.execute(query, ["named"]).fetchone() or (0, 0, 0, 0)
    assert count == known == named.n_cells
    assert least > 0
    assert 0 < most < 1


def test_the_similarity_of_chance_is_kept_with_the_model(named: IngestReport, atlas: Atlas) -> None:
    assert atlas.embedding_model() == "hashed-text-1536"
    threshold = atlas.similarity_threshold()
    assert 0 < threshold < 1


def test_prompt_control_and_query_hold_the_right_cells(named: IngestReport, atlas: Atlas) -> None:
    perturbed = [g for g in atlas.groups(dataset="named", is_control=False) if g.control_group_id][:2]
    ids = [group.group_id for group in perturbed]
    assert not atlas.materialise(ids, cell_budget=10).obs["is_control"].any()
    control = atlas.materialise(ids, cell_budget=10, kind="control")
    assert set(control.obs["cell_group_id"]) <= {group.control_group_id for group in perturbed}
    query = atlas.materialise(list(dict.fromkeys(g.control_group_id or "" for g in perturbed)), kind="query")
    assert query.obs["is_control"].all()
    with pytest.raises(CellRetrievalError, match="name control groups"):
        atlas.materialise(ids, kind="query")
    with pytest.raises(CellRetrievalError, match="no matched control"):
        atlas.materialise([str(perturbed[0].control_group_id)], kind="control")


def test_people_look_around_by_words_ids_and_synonyms(named: IngestReport, atlas: Atlas) -> None:
    explorer = Explorer(atlas.dsn)
    groups = atlas.groups()
    overview = explorer.overview()
    assert (overview.n_groups, overview.n_cells) == (len(groups), sum(g.n_cells for g in groups))
    assert overview.n_perturbations == len({g.perturbation for g in groups if not g.is_control})
    assert set(explorer.names()["dataset"]) == {g.dataset for g in groups}
    asked = {
        "cell_type": ("b CELL", lambda g: g.cell_type == "B cell"),
        "perturbation": ("feron BETA", lambda g: g.perturbation == "interferon beta"),
        "tissue": ("UBERON:0000178", lambda g: g.tissue == "blood"),
        "dataset": ("NAM", lambda g: g.dataset == "named"),
    }
    for word, (text, fits) in asked.items():
        page = explorer.browse(**{word: text}, limit=3)
        expected = sorted(filter(fits, groups), key=lambda g: (g.perturbation, g.cell_type_id, g.group_id))
        assert expected, word
        assert list(page.groups) == expected[:3], word
        assert (page.n_groups, page.n_cells) == (len(expected), sum(g.n_cells for g in expected))
    assert explorer.browse(cell_type="B cell", tissue="blood", offset=1).groups
    assert explorer.browse(dataset="%").n_groups == 0
    measured = {(g.cell_type, g.perturbation) for g in groups}
    assert not set(explorer.open_pairs(50)) & measured
