"""Labels for clusters of which only lists of marker genes are known: ranks alone are the evidence."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Unpack

from gca_core.annotation.inputs import ListKeywords, resolve, takes
from gca_core.annotation.labels.labelling import gather_knowledge, label_clusters
from gca_core.annotation.labels.vocabulary import in_vocabulary, tell_unnamed
from gca_core.annotation.markers.database import MarkerDatabase
from gca_core.annotation.markers.gene_lists import split_genes
from gca_core.annotation.markers.symbols import check_species, current_symbols
from gca_core.annotation.models import Annotation, ClusterMarkers, DatasetReport, FlagReason, RankedGene
from gca_core.annotation.observed import observed, request_id
from gca_core.annotation.pipeline import package_versions
from gca_core.annotation.scoring.evidence import weigh_lists
from gca_core.annotation.scoring.parameters import FEW_KNOWN
from gca_core.errors import DataValidationError
from gca_core.matrix.genes import ENSEMBL

log = logging.getLogger(__name__)

Genes = str | Sequence[str] | None
MarkerLists = Mapping[str, Genes] | Sequence[tuple[str, Genes]]


@observed
@takes(ListKeywords)
def annotate_from_markers(markers: MarkerLists, **keywords: Unpack[ListKeywords]) -> DatasetReport:
    """Label clusters by lists of their marker genes, best first.

    There is no expression behind a list: each gene counts alike, and genes that the list leaves out say nothing.
    Repeated genes count once, at their first place. An empty list is ``Unknown or Novel``,
    flagged ``no_markers_supplied``.

    Args:
        markers: genes by the cluster's name, as a sequence or as one text with commas; or pairs of both, where
            names may repeat.
        keywords: as for :func:`gca_core.annotation.annotate_anndata`, those that need no cells.

    Returns:
        A report with an annotation per list, in their order; ``n_cells`` is 0, since no cells are known.

    Raises:
        DataValidationError: no clusters, a list of Ensembl ids, symbols of another species, or no gene that the
            marker database knows; or a vocabulary that can't be read.
        ConfigurationError: an option is out of range, or the tissue or species isn't known.
        MarkerDatabaseError: the marker database can't be read.
    """
    options, inputs = resolve(**keywords)
    known, annotator, names = inputs.markers, inputs.annotator, inputs.vocabulary
    with inputs.clock.stage("read"):
        clusters = _clusters(markers, known.database, options.species, options.top_n_markers)
        knowledge = gather_knowledge(known, None, species=options.species, tissue=options.tissue)
    with inputs.clock.stage("annotate"):
        found, models = label_clusters(
            clusters,
            weigh_lists(clusters, knowledge.model),
            knowledge,
            annotator,
            min_overlap=options.min_overlap,
            force_unknown=options.force_unknown,
        )
        annotations = [_with_coverage(annotation, known.database) for annotation in found]
    if names is not None:
        annotations = in_vocabulary(annotations, names)
        tell_unnamed(annotations, names)
    report = DatasetReport(
        annotations=tuple(annotations),
        n_cells=0,
        n_genes=len({gene for a in annotations for gene in a.markers}),
        cluster_key="cluster",
        clusters_computed=False,
        species=options.species,
        tissue=options.tissue,
        prefix=options.prefix,
        matrix="lists of marker genes",
        annotator="offline" if annotator is None else "llm",
        model=None if annotator is None else annotator.name,
        model_stats=models,
        ranking="as given",
        top_n_markers=options.top_n_markers,
        seed=options.seed,
        marker_database=known.info,
        vocabulary=None if names is None else names.info,
        ontology_version=knowledge.ontology.version,
        agreement=None,
        versions=package_versions(),
        stats=inputs.clock.run_stats(request_id(), models),
    )
    log.info("%d clusters annotated, %d flagged", len(report.annotations), report.n_flagged)
    return report


def _clusters(markers: MarkerLists, database: MarkerDatabase, species: str, top_n: int) -> list[ClusterMarkers]:
    """The lists under current symbols, cut to their top genes and without repeats."""
    pairs = markers.items() if isinstance(markers, Mapping) else markers
    lists = [(str(name), _genes(genes, str(name))) for name, genes in pairs]
    if not lists:
        raise DataValidationError("there are no clusters; expected marker genes for at least one")
    for name, genes in lists:
        _refuse_identifiers(name, genes)
    written = [gene for _, genes in lists for gene in genes]
    check_species(written, "the lists", species)
    current = dict(zip(written, current_symbols(written, database), strict=True))
    clusters = []
    for name, genes in lists:
        top = list(dict.fromkeys(current[gene] for gene in genes))[:top_n]
        clusters.append(ClusterMarkers(cluster=name, genes=tuple(RankedGene(gene=gene) for gene in top)))
    _refuse_strangers(clusters, database, species)
    return clusters


def _genes(genes: Genes, cluster: str) -> list[str]:
    """The genes of one list as they are written; what stands for a missing value is an empty list."""
    if genes is None or isinstance(genes, float):
        return []
    if isinstance(genes, str):
        try:
            return list(split_genes(genes))
        except DataValidationError as error:
            raise DataValidationError(f"cluster {cluster!r}: {error}") from None
    if not isinstance(genes, Iterable) or isinstance(genes, (AbstractSet, Mapping, bytes)):
        raise DataValidationError(
            f"the markers of cluster {cluster!r} are of the kind {type(genes).__name__}; expected a list of gene "
            "symbols, best first"
        )
    given = list(genes)
    wrong = [gene for gene in given if not isinstance(gene, str)]
    if wrong:
        raise DataValidationError(f"the markers of cluster {cluster!r} hold {wrong[0]!r}; expected gene symbols")
    return [stripped for gene in given if (stripped := gene.strip())]


def _refuse_identifiers(cluster: str, genes: Sequence[str]) -> None:
    found = [gene for gene in genes if ENSEMBL.fullmatch(gene)]
    if len(found) > len(genes) / 2:
        raise DataValidationError(
            f"the markers of cluster {cluster!r} are Ensembl ids ({', '.join(found[:2])}, ...); expected gene symbols "
            "such as CD3D: map them first"
        )


def _refuse_strangers(clusters: Sequence[ClusterMarkers], database: MarkerDatabase, species: str) -> None:
    genes = [ranked.gene for cluster in clusters for ranked in cluster.genes]
    if genes and not database.genes.intersection(genes):
        raise DataValidationError(
            f"none of the {len(set(genes))} genes is known to the marker database {database.name!r}; they look like "
            f"{', '.join(genes[:3])}: expected {species} symbols"
        )


def _with_coverage(annotation: Annotation, database: MarkerDatabase) -> Annotation:
    """The annotation with a caveat where the marker database knows few of its genes."""
    known = len(database.genes.intersection(annotation.markers))
    n = len(annotation.markers)
    if FlagReason.NO_MARKERS_SUPPLIED in annotation.flag_reasons or known >= FEW_KNOWN * n:
        return annotation
    caveat = f"only {known} of {n} genes are known to the marker database"
    return annotation.model_copy(update={"caveats": (*annotation.caveats, caveat)})
