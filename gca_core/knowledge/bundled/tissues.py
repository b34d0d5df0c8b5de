"""Tissues and organs: UBERON names, as a file's labels are harmonised to them.

The terms are those of the bundled release (CC BY 3.0); the names the field uses for them, such as "PBMC" or
"gut", are a list of this project and win over synonyms. "PBMC" means the tissue the cells were taken from.
"""

import csv
import gzip
import json
import re
from collections.abc import Mapping
from functools import cache, cached_property
from types import MappingProxyType

from gca_core.errors import DataValidationError
from gca_core.knowledge.bundled.files import reading
from gca_core.knowledge.bundled.ontology import name_key, plain_key, unique_index

_IDENTIFIER = re.compile(r"UBERON[:_](\d{7})", re.IGNORECASE)
_ORGANOID = re.compile(r"\s*\((organoid|cell culture|cell line)\)\s*$", re.IGNORECASE)
_TISSUE_WORD = re.compile(r"^(?:human|adult|fetal|foetal)\s+|\s+(?:tissue|biopsy|sample)$", re.IGNORECASE)


class Tissues:
    """The anatomical terms in use.

    Args:
        version: of the release.
        terms: id to (label, synonyms, nearest parents).
        replaced: obsolete id to the id that replaces it.
        aliases: names of the field with the id each one means.

    Raises:
        DataValidationError: an alias names an unknown id.
    """

    def __init__(
        self,
        version: str,
        terms: Mapping[str, tuple[str, list[str], list[str]]],
        replaced: Mapping[str, str],
        aliases: Mapping[str, str],
    ) -> None:
        self.version = version
        self._terms = terms
        self._replaced = replaced
        self._aliases = aliases
        if unknown := sorted(set(aliases.values()) - set(terms)):
            raise DataValidationError(f"the tissue aliases name unknown terms: {', '.join(unknown)}")
        self._exact = unique_index(((term[0], identifier) for identifier, term in terms.items()), plain_key)
        self._by_alias = unique_index(aliases.items(), name_key)

    @cached_property
    def _by_label(self) -> Mapping[str, str]:
        return unique_index(((term[0], identifier) for identifier, term in self._terms.items()), name_key)

    @cached_property
    def _by_synonym(self) -> Mapping[str, str]:
        return unique_index(((name, i) for i, term in self._terms.items() for name in term[1]), name_key)

    def __len__(self) -> int:
        return len(self._terms)

    def __contains__(self, identifier: object) -> bool:
        return identifier in self._terms

    def label(self, identifier: str) -> str:
        """The label of a term.

        Raises:
            DataValidationError: there is no such term.
        """
        return self._known(identifier)[0]

    def synonyms(self, identifier: str) -> tuple[str, ...]:
        """The synonyms of a term and the field's names for it, in alphabetical order."""
        field = {name for name, owner in self._aliases.items() if owner == identifier}
        return tuple(sorted({*self._known(identifier)[1], *field}))

    def ancestors(self, identifier: str) -> Mapping[str, int]:
        """All terms above a term with their shortest distance; the term itself is not among them."""
        found: dict[str, int] = {}
        level, distance = [identifier], 0
        while level:
            distance += 1
            parents = sorted({f"UBERON:{parent}" for i in level for parent in self._known(i)[2]})
            level = [i for i in parents if i in self._terms and i not in found and i != identifier]
            found.update(dict.fromkeys(level, distance))
        return MappingProxyType(found)

    def resolve(self, text: str) -> str | None:
        """The id that a text means, or None.

        Tried in this order: an id (an obsolete one gives its replacement); a name of the field; a label; a
        synonym; then the same without "tissue", "biopsy" or "adult". A name of several terms means none.
        """
        plain = _ORGANOID.sub("", text.strip())
        if (found := _IDENTIFIER.fullmatch(plain)) is not None:
            identifier = f"UBERON:{found[1]}"
            return identifier if identifier in self._terms else self._replaced.get(identifier)
        stripped = _TISSUE_WORD.sub("", _TISSUE_WORD.sub("", plain))
        return self._by_name(plain) or self._by_name(stripped)

    def _by_name(self, text: str) -> str | None:
        key = name_key(text)
        quick = self._by_alias.get(key) or self._exact.get(plain_key(text))
        return quick or self._by_label.get(key) or self._by_synonym.get(key)

    def _known(self, identifier: str) -> tuple[str, list[str], list[str]]:
        if identifier not in self._terms:
            raise DataValidationError(f"{identifier!r} is no term in use of UBERON {self.version}")
        return self._terms[identifier]


@cache
def load_tissues() -> Tissues:
    """The bundled UBERON, read once per process."""
    with reading("tissues.json.gz", "tissue_aliases.tsv") as (packed, table):
        data = json.loads(gzip.decompress(packed.read_bytes()))
        with table.open(encoding="utf-8", newline="") as source:
            aliases = {row["alias"]: row["ontology_id"] for row in csv.DictReader(source, delimiter="\t")}
        return Tissues(data["version"], data["terms"], data["replaced"], aliases)


def resolve_tissue(text: str) -> str | None:
    """The UBERON id that a text means, or None."""
    return load_tissues().resolve(text)


def tissue_label(identifier: str) -> str:
    """The label of an UBERON id; an id that is not known is its own label."""
    tissues = load_tissues()
    return tissues.label(identifier) if identifier in tissues else identifier


def tissue_synonyms(identifier: str) -> tuple[str, ...]:
    """Other names of an UBERON id; none where the id is not known."""
    tissues = load_tissues()
    return tissues.synonyms(identifier) if identifier in tissues else ()
