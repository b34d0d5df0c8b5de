"""Taking an h5ad file into the atlas."""

import logging
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pandas as pd

from gca_core import io
from gca_core.atlas.expression import CELLS_FILE, GROUPS_FILE, QUALITY, STORE_VERSION, ExpressionStore
from gca_core.atlas.ingest import rows, store
from gca_core.atlas.ingest.checkpoint import IngestCheckpoint
from gca_core.atlas.ingest.names import NameResolver
from gca_core.atlas.ingest.plan import IngestPlan, check_columns, make_plan
from gca_core.atlas.ingest.presets import apply_preset
from gca_core.atlas.ingest.rows import Embed
from gca_core.atlas.ingest.source import CountSource, read_header
from gca_core.atlas.models import IngestConfig, IngestReport
from gca_core.atlas.reader import Atlas
from gca_core.matrix.cells import open_cells
from gca_core.store.connect import connect

log = logging.getLogger(__name__)

_WORK_PREFIX = ".ingest-"


def ingest(
    config: IngestConfig,
    atlas: Atlas,
    *,
    embed: Embed,
    resolver: NameResolver,
    embedding_model: str = "hashed-text-1536",
) -> IngestReport:
    """Read a file, sort its cells into groups, and make them searchable.

    Everything is checked before anything is written. The expression store is written beside the old
    one, then one transaction switches over: readers see the old dataset or the new one. The same
    content under the same name is recognised and changes nothing; other content replaces the dataset.
    An ingest that was killed goes on where it stopped, on the same machine and until it is restarted.

    Args:
        config: the file and its columns.
        atlas: opened with the role ``admin``.
        embed: from texts to vectors of 1536 numbers.
        resolver: what the file's words mean; see :func:`gca_core.atlas.ingest.names.load_name_resolver`.
        embedding_model: the name of what ``embed`` does; an atlas holds vectors of one model only.

    Raises:
        DataValidationError: the file doesn't fit; nothing was written.
        ConfigurationError: the atlas holds vectors of another model.
        StoreError: the database can't be reached or refuses.
    """
    config.check_input()
    began = time.monotonic()
    with open_cells(config.input_uri, what="h5ad file") as file, rows.locked(atlas.dsn, config.dataset):
        config = apply_preset(config, **read_header(file))
        source = CountSource(file, config.layer, config.gene_column)
        check_columns(source.columns, config)
        table = source.table([name for name in config.columns().values() if name is not None])
        plan = make_plan(table, config, resolver)
        digest = _content_hash(file.path, config, plan)
        found = _known(atlas, config.dataset, digest)
        if found is not None:
            log.info("%s is already in the atlas with this content", config.dataset)
            return found.model_copy(update={"unchanged": True, "seconds": round(time.monotonic() - began, 3)})
        with connect(atlas.dsn) as connection:
            rows.check_model(connection, embedding_model, config.dataset)
        log.info("reading %d cells x %d genes of %s", source.n_cells, len(source.genes), config.input_uri)
        store_uri = io.join_uri(atlas.store_root_uri, io.safe_name(config.dataset), digest[:16])
        if _is_complete(store_uri):
            log.info("the expression store was written before; only the tables are missing")
            cells, resumed_at = ExpressionStore(store_uri).cells(), source.n_cells
        else:
            with _store(store_uri) as folder:
                cells, resumed_at = _write_store(folder, source, plan)
        report = _report(config, plan, source, digest, store_uri, embedding_model)
        seconds = round(time.monotonic() - began, 3)
        report = report.model_copy(update={"seconds": seconds, "resumed_at": resumed_at})
        report = rows.write_rows(atlas.dsn, report, plan, cells, embed=embed, resolver=resolver)
        _prune(store_uri)
    log.info(
        "ingested %d cells in %d groups as %s in %.1f s",
        report.n_cells,
        report.n_groups,
        report.dataset,
        report.seconds,
    )
    return report


def _content_hash(path: Path, config: IngestConfig, plan: IngestPlan) -> str:
    """A hash of the file and of everything that decides what becomes of it."""
    options = config.model_dump(exclude={"input_uri", "preset"})
    groups = [group.model_dump() for group in plan.groups]
    files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    content = [[file.relative_to(path).as_posix(), io.sha256_file(file)] for file in files]
    return io.content_hash([STORE_VERSION, content, options, groups, plan.unmapped])


def _known(atlas: Atlas, dataset: str, digest: str) -> IngestReport | None:
    """The report of an earlier ingest of this content, when its files are still there."""
    with connect(atlas.dsn) as connection:
        query = "select report, store_uri from datasets where dataset = %s and content_hash = %s"
        row = connection.execute(query, [dataset, digest]).fetchone()
    if row is None:
        return None
    return IngestReport.model_validate(row[0]) if _is_complete(row[1]) else None


def _is_complete(store_uri: str) -> bool:
    """Whether both files are there; they come by renaming, so each is whole."""
    files = (CELLS_FILE, GROUPS_FILE)
    return all(io.as_path(io.join_uri(store_uri, name)).exists() for name in files)


@contextmanager
def _store(store_uri: str) -> Iterator[Path]:
    """A folder to write to, which becomes the store when the block ends without an error.

    The folder stays when the process is killed, and is found again by its name.
    """
    target = io.as_path(store_uri)
    if not io.is_local(target):
        with tempfile.TemporaryDirectory(prefix="gca-ingest-") as name:
            yield Path(name)
            for file in (CELLS_FILE, GROUPS_FILE):
                with io.staged(io.join_uri(store_uri, file)) as staging:
                    shutil.move(Path(name) / file, staging)
        return
    local = Path(str(target))
    folder = local.parent / f"{_WORK_PREFIX}{local.name}"
    # left by killed ingests of other content; this one holds the dataset's lock
    for leftover in local.parent.glob(f"{_WORK_PREFIX}*"):
        if leftover != folder:
            shutil.rmtree(leftover, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield folder
        shutil.rmtree(local, ignore_errors=True)
        folder.rename(local)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _write_store(folder: Path, source: CountSource, plan: IngestPlan) -> tuple[pd.DataFrame, int]:
    """Write the files; returns the cells in the order of the store, and the row at which it went on."""
    progress = IngestCheckpoint(folder, source.n_cells, len(QUALITY))
    resumed_at = progress.next_row
    if resumed_at:
        log.info("going on at cell %d, where an ingest of the same stopped", resumed_at)
    cells = store.write_cells(folder, source, plan, progress)
    progress.save()
    store.write_groups(folder, plan)
    progress.remove()
    cells.insert(0, "cell_name", source.cell_names()[store.store_order(plan)])
    return cells, resumed_at


def _report(
    config: IngestConfig, plan: IngestPlan, source: CountSource, digest: str, store_uri: str, model: str
) -> IngestReport:
    perturbed = [group for group in plan.groups if not group.is_control]
    options = ("control_value", "perturbation_kind", "layer", "gene_column")
    columns = {what: name for what, name in config.columns().items() if name is not None}
    columns |= {name.replace("_", " "): value for name in options if (value := getattr(config, name)) is not None}
    return IngestReport(
        dataset=config.dataset,
        content_hash=digest,
        store_uri=store_uri,
        n_cells_read=source.n_cells,
        n_cells=sum(group.n_cells for group in plan.groups),
        n_genes=len(source.genes),
        n_groups=len(plan.groups),
        n_control_groups=len(plan.groups) - len(perturbed),
        n_groups_without_control=sum(group.control_group_id is None for group in perturbed),
        n_matched=dict(sorted(Counter(str(g.control_match) for g in perturbed if g.control_match).items())),
        n_unlabelled=plan.n_unlabelled,
        n_without_perturbation=plan.n_without_perturbation,
        unmapped_cell_types=plan.unmapped,
        unmapped_perturbations=plan.unmapped_perturbations,
        unmapped_tissues=plan.unmapped_tissues,
        cell_types=plan.cell_types,
        tissues=plan.tissues,
        perturbations=sorted({group.perturbation for group in plan.groups}),
        perturbation_names={value: name for value, name in plan.perturbation_names.items() if value != name},
        columns=columns,
        notes=plan.notes,
        embedding_model=model,
        seconds=0.0,
    )


def _prune(store_uri: str) -> None:
    """Remove the dataset's older stores but the last one, which a reader may still have open."""
    target = io.as_path(store_uri)
    if not io.is_local(target):
        return
    current = Path(str(target))
    others = [path for path in current.parent.iterdir() if path != current and not path.name.startswith(".")]
    for old in sorted(others, key=lambda path: path.stat().st_mtime)[:-1]:
        shutil.rmtree(old, ignore_errors=True)
