"""Which cells of a file go to which group, and each group's control."""

import itertools
import logging
import re
from collections import Counter
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pandas as pd

from gca_core.atlas.ingest.names import NameResolver, Resolve
from gca_core.atlas.models import MAX_NAME, CellGroup, IngestConfig, make_group_id
from gca_core.errors import DataValidationError
from gca_core.knowledge.bundled.genetic import (
    KNOCKOUT,
    GeneticKind,
    guide_target,
    is_control_guide,
    is_guide,
    read_kind,
)

log = logging.getLogger(__name__)

UNPERTURBED = "unperturbed"
_CL_ID = re.compile(r"CL:\d{7}")
_UBERON_ID = re.compile(r"UBERON:\d{7}")
_MISSING = {"", "nan", "none", "na", "n/a"}
_UNKNOWN = "unknown"


@dataclass(frozen=True)
class IngestPlan:
    """Where every cell goes.

    Attributes:
        groups: in the order of the store, which is that of their ids.
        codes: (cells of the file,) index into ``groups``; -1 for a cell that is left out.
        n_unlabelled: cells without a cell type.
        n_without_perturbation: cells with a cell type and no perturbation.
        unmapped: cell types that couldn't be resolved, with their numbers of cells.
        cell_types: label by Cell Ontology id.
        tissues: label by UBERON id.
        unmapped_tissues: tissues that couldn't be resolved, with their numbers of cells.
        perturbation_names: stored name by the file's value.
        unmapped_perturbations: stored names that the catalogue doesn't know, controls apart.
        aliases: kind, name in the file, and id or stored name that it stands for.
        notes: what was guessed.
    """

    groups: list[CellGroup]
    codes: npt.NDArray[np.int64]
    n_unlabelled: int
    n_without_perturbation: int
    unmapped: dict[str, int]
    cell_types: dict[str, str]
    tissues: dict[str, str] = field(default_factory=dict)
    unmapped_tissues: dict[str, int] = field(default_factory=dict)
    perturbation_names: dict[str, str] = field(default_factory=dict)
    unmapped_perturbations: list[str] = field(default_factory=list)
    aliases: list[tuple[str, str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Coded:
    """A column as codes into its distinct values; -1 where there is none."""

    codes: npt.NDArray[np.int64]
    values: list[str]

    @property
    def there(self) -> npt.NDArray[np.bool_]:
        return self.codes >= 0

    def count(self, rows: npt.NDArray[np.bool_]) -> dict[str, int]:
        """How often each value is found in some rows."""
        found = Counter(self.codes[rows & self.there].tolist())
        return {self.values[code]: found[code] for code in sorted(found)}


def make_plan(obs: pd.DataFrame, config: IngestConfig, resolver: NameResolver) -> IngestPlan:
    """Assign cells to groups and groups to controls; O(cells).

    Args:
        obs: the file's cell table.
        config: the columns.
        resolver: what the words of the file mean.

    Raises:
        DataValidationError: a column or the control value is missing, or no cell can be used.
    """
    check_columns(obs.columns, config)
    perturbations = _perturbations(obs, config)
    kinds, notes = _kinds(obs, perturbations, config)
    names = _perturbation_names(perturbations.values, config, resolver, kinds)
    labels = _coded(obs[config.cell_type_column])
    types, unmapped = _ids(labels, obs, config.cell_type_id_column, resolver.resolve_cell_type, _CL_ID)
    tissues, unmapped_tissues, tissue_words = _tissues(obs, config, resolver.resolve_tissue)
    donors = _coded(obs[config.donor_column]) if config.donor_column else _none(len(obs))
    _check_lengths(config.donor_column, donors.values)
    usable = types.there & perturbations.there
    if not usable.any():
        raise DataValidationError(
            f"no cell of {config.input_uri} can be used: {int((~labels.there).sum())} of {len(obs)} have no value in "
            f"{config.cell_type_column!r}, and these labels aren't known cell types: {_listing(unmapped)}"
        )
    cell_types = _labels(types, labels, usable, resolver.label_cell_type)
    tissue_labels = _labels(tissues, tissue_words, usable, resolver.label_tissue)
    groups, codes = _groups(config, names, (perturbations, types, donors, tissues), usable)
    groups = [
        group.model_copy(
            update={"cell_type": cell_types[group.cell_type_id], "tissue": tissue_labels.get(group.tissue_id or "")}
        )
        for group in groups
    ]
    stored = {group.perturbation for group in groups if not group.is_control}
    resolve = resolver.resolve_perturbation or (lambda _text: None)
    return IngestPlan(
        groups=match_controls(groups),
        codes=codes,
        n_unlabelled=int((~labels.there & ~types.there).sum()),
        n_without_perturbation=int((types.there & ~perturbations.there).sum()),
        unmapped=unmapped,
        cell_types=cell_types,
        tissues=tissue_labels,
        unmapped_tissues=unmapped_tissues,
        perturbation_names=names,
        unmapped_perturbations=sorted(
            name for name in stored if resolver.resolve_perturbation and resolve(name) is None
        ),
        aliases=[
            # a gene that was knocked out is not found by the name of the cytokine it encodes
            *(("perturbation", v, name) for v, name in names.items() if v not in kinds or resolve(v) in {None, name}),
            *(("cell_type", word, its_id) for word, its_id in _pairs(labels, types, usable)),
            *(("tissue", word, its_id) for word, its_id in _pairs(tissue_words, tissues, usable)),
        ],
        notes=notes,
    )


def check_columns(present: Iterable[str], config: IngestConfig) -> None:
    """Check that the columns named are there.

    Raises:
        DataValidationError: one isn't; lists what is.
    """
    columns = list(present)
    for what, name in config.columns().items():
        if name is not None and name not in columns:
            raise DataValidationError(f"the {what} {name!r} is not in {config.input_uri}; found {_listing(columns)}")


def match_controls(groups: list[CellGroup]) -> list[CellGroup]:
    """Give each perturbed group its control: same type and donor, else the largest of the type.

    Controls of the group's own tissue go before all others. Of equally large ones the first by id is taken.
    Groups of a type without controls keep none.
    """
    controls: dict[str, list[CellGroup]] = {}
    for group in groups:
        if group.is_control:
            controls.setdefault(group.cell_type_id, []).append(group)
    return [
        group if group.is_control else _with_control(group, controls.get(group.cell_type_id, [])) for group in groups
    ]


def _with_control(group: CellGroup, of_type: list[CellGroup]) -> CellGroup:
    if not of_type:
        return group
    candidates = [control for control in of_type if control.tissue_id == group.tissue_id] or of_type
    same_donor = [c for c in candidates if c.donor == group.donor] if group.donor is not None else []
    best = min(same_donor or candidates, key=lambda c: (-c.n_cells, c.group_id))
    match = "type_and_donor" if same_donor else "type"
    return group.model_copy(update={"control_group_id": best.group_id, "control_match": match})


def _perturbations(obs: pd.DataFrame, config: IngestConfig) -> _Coded:
    if config.perturbation_column is None:
        return _Coded(np.zeros(len(obs), dtype=np.int64), [config.control_value or UNPERTURBED])
    # what is named is taken as it is written, "None" and "NA" too
    found = _coded(obs[config.perturbation_column], kept={config.control_value, *config.perturbation_names})
    for value in (config.control_value, *config.perturbation_names):
        if value not in found.values:
            raise DataValidationError(
                f"{value!r} is not a value of {config.perturbation_column!r} in {config.input_uri}; "
                f"found {_listing(found.values)}"
            )
    if len(found.values) == 1:
        raise DataValidationError(
            f"{config.perturbation_column!r} holds {found.values[0]!r} only; expected controls and perturbed cells"
        )
    return found


def _kinds(obs: pd.DataFrame, found: _Coded, config: IngestConfig) -> tuple[dict[str, GeneticKind], list[str]]:
    """How each value changes a gene, where it does, and what was guessed of that."""
    control = config.control_value or UNPERTURBED
    values = [value for value in found.values if value != control]
    if config.perturbation_kind_column is not None:
        words = _coded(obs[config.perturbation_kind_column])
        pairs = [pair for pair in _pairs(found, words, np.ones(len(obs), dtype=np.bool_)) if pair[0] != control]
        twice = [value for value, count in Counter(value for value, _ in pairs).items() if count > 1]
        if twice:
            raise DataValidationError(
                f"{config.perturbation_kind_column!r} holds several kinds for {_listing(twice)}; expected one for each"
            )
        given = {value: read_kind(word) for value, word in pairs}
    elif config.perturbation_kind is not None:
        given = dict.fromkeys(values, read_kind(config.perturbation_kind))
    else:
        return _guessed(values, control, config)
    return {value: kind for value, kind in given.items() if isinstance(kind, GeneticKind)}, []


def _guessed(values: Sequence[str], control: str, config: IngestConfig) -> tuple[dict[str, GeneticKind], list[str]]:
    """Knock-outs, where control or names are written as screens write guides, and most values are genes."""
    screen = is_control_guide(control) or 2 * sum(map(is_guide, values)) >= len(values)
    if not screen or not values:
        return {}, []
    genes = [value for value in values if guide_target(value) is not None or "+" in value]
    if 2 * len(genes) < len(values):
        return {}, []
    note = (
        f"{config.perturbation_column!r} looks like that of a CRISPR screen (control {control!r}), so its genes are "
        "taken as knocked out; say what was done with the perturbation kind (knockout, CRISPRi, CRISPRa, cytokine, ...)"
    )
    log.warning(note)
    return dict.fromkeys(genes, KNOCKOUT), [note]


def _perturbation_names(
    values: Sequence[str], config: IngestConfig, resolver: NameResolver, kinds: Mapping[str, GeneticKind]
) -> dict[str, str]:
    """The name to store for every value: the one given, else the gene's or the catalogue's, else the value itself.

    Two values must not become one: those that mean the same keep their own names, guides of one gene beside its.
    """
    control = config.control_value or UNPERTURBED
    resolve = resolver.resolve_perturbation or (lambda _text: None)
    given = config.perturbation_names
    meant = {v: given.get(v) or _meaning(v, control, kinds.get(v), resolve) for v in values}
    taken = Counter(meant.values())
    names = {
        value: name if taken[name] == 1 or value in given else f"{name} ({value})" if value in kinds else value
        for value, name in meant.items()
    }
    again = Counter(names.values())
    twice = [value for value, name in names.items() if again[name] > 1]
    if twice:
        raise DataValidationError(f"the values {_listing(twice)} would get one name; name each of them differently")
    _check_lengths(config.perturbation_column, names.values())
    return names


def _meaning(value: str, control: str, kind: GeneticKind | None, resolve: Resolve) -> str:
    if value == control:
        return value
    if kind is None:
        return resolve(value) or value
    return value if is_control_guide(value) else f"{guide_target(value) or value} {kind.name}"


def _ids(
    labels: _Coded, obs: pd.DataFrame, id_column: str | None, resolve: Resolve, pattern: re.Pattern[str]
) -> tuple[_Coded, dict[str, int]]:
    """The ontology id of every cell, and the labels that have none."""
    resolved = [resolve(label) for label in labels.values]
    values = sorted({its_id for its_id in resolved if its_id is not None})
    ids = _Coded(_mapped(labels.codes, [-1 if i is None else values.index(i) for i in resolved]), values)
    if id_column is not None:
        ids = _overlaid(ids, _coded(obs[id_column], also_missing={_UNKNOWN}), id_column, pattern)
    return ids, labels.count(~ids.there)


def _overlaid(ids: _Coded, given: _Coded, column: str, pattern: re.Pattern[str]) -> _Coded:
    """The given ids where there are any, else the resolved ones."""
    wrong = [value for value in given.values if not pattern.fullmatch(value)]
    if wrong and pattern is _CL_ID:
        raise DataValidationError(f"{column!r} holds {_listing(wrong)}; expected Cell Ontology ids like CL:0000084")
    values = sorted({*ids.values, *given.values} - {*wrong})
    place = {value: code for code, value in enumerate(values)}
    theirs = _mapped(given.codes, [place.get(value, -1) for value in given.values])
    ours = _mapped(ids.codes, [place[value] for value in ids.values])
    return _Coded(np.where(theirs >= 0, theirs, ours), values)


def _tissues(obs: pd.DataFrame, config: IngestConfig, resolve: Resolve | None) -> tuple[_Coded, dict[str, int], _Coded]:
    """The tissue of every cell, the words that mean none, and the words."""
    words = _coded(obs[config.tissue_column]) if config.tissue_column else _none(len(obs))
    known = resolve or (lambda _text: None)
    ids, unmapped = _ids(words, obs, config.tissue_id_column, lambda text: known(text.replace("_", " ")), _UBERON_ID)
    return ids, unmapped, words


def _groups(
    config: IngestConfig,
    names: dict[str, str],
    columns: tuple[_Coded, _Coded, _Coded, _Coded],
    usable: npt.NDArray[np.bool_],
) -> tuple[list[CellGroup], npt.NDArray[np.int64]]:
    """The groups by id, and each cell's place among them."""
    key = np.zeros(usable.size, dtype=np.int64)
    for column in columns:
        key = key * (len(column.values) + 1) + column.codes + 1
    _, first, inverse, counts = np.unique(key[usable], return_index=True, return_inverse=True, return_counts=True)
    rows = np.flatnonzero(usable)[first]
    found: list[CellGroup] = []
    for row, count in zip(rows.tolist(), counts.tolist(), strict=True):
        value, cell_type, donor, tissue = (_value(column, row) for column in columns)
        perturbation = names[str(value)]
        found.append(
            CellGroup(
                group_id=make_group_id(config.dataset, perturbation, str(cell_type), donor, tissue),
                dataset=config.dataset,
                perturbation=perturbation,
                is_control=value == (config.control_value or UNPERTURBED),
                cell_type_id=str(cell_type),
                cell_type=str(cell_type),
                donor=donor,
                n_cells=count,
                tissue_id=tissue,
            )
        )
    order = sorted(range(len(found)), key=lambda index: found[index].group_id)
    groups = [found[index] for index in order]
    for one, other in itertools.pairwise(groups):
        if one.group_id == other.group_id:
            raise DataValidationError(f"two groups share the id {one.group_id}; rename the dataset")
    place = np.empty(len(found), dtype=np.int64)
    place[order] = np.arange(len(found))
    codes = np.full(usable.size, -1, dtype=np.int64)
    codes[usable] = place[inverse.ravel()]
    return groups, codes


def _labels(
    ids: _Coded, words: _Coded, usable: npt.NDArray[np.bool_], label_of: Callable[[str], str] | None
) -> dict[str, str]:
    """The label of every id in use: the resolver's, else the file's first in alphabetical order."""
    used = sorted({ids.values[code] for code in np.unique(ids.codes[usable & ids.there]).tolist()})
    if label_of is not None:
        return {its_id: label_of(its_id) for its_id in used}
    given: dict[str, str] = {}
    for word, its_id in sorted(_pairs(words, ids, usable)):
        given.setdefault(its_id, word)
    return {its_id: given.get(its_id, its_id) for its_id in used}


def _pairs(words: _Coded, ids: _Coded, usable: npt.NDArray[np.bool_]) -> list[tuple[str, str]]:
    """The pairs of word and id that some usable cell has."""
    rows = usable & words.there & ids.there
    width = max(len(ids.values), 1)
    found = np.unique(words.codes[rows] * width + ids.codes[rows]).tolist()
    return [(words.values[key // width], ids.values[key % width]) for key in found]


def _coded(column: pd.Series, also_missing: Iterable[str] = (), kept: Container[str | None] = ()) -> _Coded:
    """A column as trimmed text; words such as "NA" are missing values unless they are ``kept``."""
    if isinstance(column.dtype, pd.CategoricalDtype):
        raw, found = np.asarray(column.cat.codes, dtype=np.int64), list(column.cat.categories)
    else:
        codes, uniques = pd.factorize(column.astype(object))
        raw, found = np.asarray(codes, dtype=np.int64), list(uniques)
    missing = _MISSING.union(also_missing)
    # whole numbers beside missing values are read as floats
    plain = [int(value) if isinstance(value, float) and value.is_integer() else value for value in found]
    words = [None if pd.isna(value) else str(value).strip() for value in plain]
    texts = [None if w is None or (w.lower() in missing and w not in kept) else w for w in words]
    values = sorted({text for text in texts if text is not None})
    place = {value: code for code, value in enumerate(values)}
    return _Coded(_mapped(raw, [-1 if text is None else place[text] for text in texts]), values)


def _none(n_cells: int) -> _Coded:
    return _Coded(np.full(n_cells, -1, dtype=np.int64), [])


def _mapped(codes: npt.NDArray[np.int64], to: Sequence[int]) -> npt.NDArray[np.int64]:
    """Codes replaced by others; -1 stays."""
    # the last entry is what -1 points at
    return np.array([*to, -1], dtype=np.int64)[codes]


def _value(column: _Coded, row: int) -> str | None:
    code = int(column.codes[row])
    return None if code < 0 else column.values[code]


def _check_lengths(column: str | None, names: Iterable[str]) -> None:
    long = [name for name in names if len(name) > MAX_NAME]
    if long:
        raise DataValidationError(
            f"{column!r} holds names of up to {max(map(len, long))} characters, beginning with {long[0][:40]!r}; "
            f"expected at most {MAX_NAME}: is it the right column?"
        )


def _listing(names: Iterable[object], limit: int = 12) -> str:
    found = [repr(str(name)) for name in names]
    more = f" and {len(found) - limit} more" if len(found) > limit else ""
    return (", ".join(found[:limit]) or "nothing") + more
