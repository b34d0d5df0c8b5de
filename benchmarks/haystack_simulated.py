"""An atlas simulated from named gene programs, and questions whose answers are kept apart.

Every perturbation drives the programs of its family, more or less like the family's first member. A cell type answers
by its own competence for each program, which is alike in types that stand near in the Cell Ontology. The answer
saturates, programs act on each other, and a gene that is closed in a type doesn't answer there: so a response is no
sum of what is common to its perturbation and to its type. Half of a program's genes are those of a bundled set, the
others are anyone's; the catalogue is right about families, and doesn't know how alike their members act.

The seeds and figures below were committed before anything that learns was written; ``HELD_BACK`` is for the end.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import anndata as ad
import numpy as np
import numpy.typing as npt
import pandas as pd
import scipy.sparse as sp

from gca_core.knowledge.bundled.catalogue import load_catalogue
from gca_core.knowledge.bundled.gene_sets import find_gene_set, known_symbols
from gca_core.knowledge.bundled.ontology import load_ontology
from gca_core.matrix.compare import log_fold_change

CONTROL = "control"
DONORS = ("D1", "D2", "D3", "D4")
# each type's way down the tree; what two types share of it is what they have in common
TYPES = {
    "CL:0002057": ("myeloid", "monocyte", "classical monocyte"),
    "CL:0002396": ("myeloid", "monocyte", "non-classical monocyte"),
    "CL:0000990": ("myeloid", "dendritic", "dendritic"),
    "CL:0000236": ("lymphoid", "B", "B"),
    "CL:0000623": ("lymphoid", "NK", "NK"),
    "CL:0000624": ("lymphoid", "T", "CD4"),
    "CL:0000625": ("lymphoid", "T", "CD8"),
    "CL:0000057": ("stromal", "fibroblast", "fibroblast"),
}
PROGRAMS = {
    "interferon": "HALLMARK_INTERFERON_ALPHA_RESPONSE",
    "nfkb": "HALLMARK_TNFA_SIGNALING_VIA_NFKB",
    "stat3": "HALLMARK_IL6_JAK_STAT3_SIGNALING",
    "stat5": "HALLMARK_IL2_STAT5_SIGNALING",
    "tgfb": "HALLMARK_TGF_BETA_SIGNALING",
    "wnt": "HALLMARK_WNT_BETA_CATENIN_SIGNALING",
    "mapk": "HALLMARK_KRAS_SIGNALING_UP",
    "mtorc1": "HALLMARK_MTORC1_SIGNALING",
    "p53": "HALLMARK_P53_PATHWAY",
    "upr": "HALLMARK_UNFOLDED_PROTEIN_RESPONSE",
    "sterol": "HALLMARK_CHOLESTEROL_HOMEOSTASIS",
    "hypoxia": "HALLMARK_HYPOXIA",
    "oxidative": "HALLMARK_REACTIVE_OXYGEN_SPECIES_PATHWAY",
    "notch": "HALLMARK_NOTCH_SIGNALING",
    "vessel": "HALLMARK_ANGIOGENESIS",
}
# program, direction, and how alike each member's drive is to the first one's
# fmt: off
FAMILIES: tuple[tuple[str, int, dict[str, float]], ...] = (
    ("interferon", 1, {"interferon beta": 1, "interferon alpha": 0.9, "interferon omega": 0.75,
                       "interferon lambda 1": 0.6, "interferon gamma": 0.4}),
    ("nfkb", 1, {"tumor necrosis factor": 1, "interleukin 1 beta": 0.8, "interleukin 1 alpha": 0.7, "CD40 ligand": 0.6,
                 "lipopolysaccharide": 0.5, "interleukin 36 gamma": 0.4, "interleukin 17A": 0.3}),
    ("stat3", 1, {"interleukin 6": 1, "oncostatin M": 0.8, "leukemia inhibitory factor": 0.65, "interleukin 22": 0.5,
                  "interleukin 10": 0.3}),
    ("stat5", 1, {"interleukin 2": 1, "interleukin 15": 0.85, "interleukin 7": 0.6, "GM-CSF": 0.35}),
    ("tgfb", 1, {"TGF-beta 1": 1, "activin A": 0.75, "myostatin": 0.55, "BMP4": 0.35}),
    ("wnt", 1, {"WNT3A": 1, "CHIR-99021": 0.7, "R-spondin 1": 0.45}),
    ("mapk", 1, {"epidermal growth factor": 1, "HB-EGF": 0.9, "FGF2": 0.6, "hepatocyte growth factor": 0.4}),
    ("mapk", -1, {"trametinib": 1, "selumetinib": 0.9, "PD0325901": 0.7}),
    ("nfkb", -1, {"dexamethasone": 1, "prednisolone": 0.85, "budesonide": 0.6}),
    ("mtorc1", -1, {"sirolimus": 1, "everolimus": 0.85, "Torin 1": 0.5}),
    ("p53", 1, {"nutlin-3": 1, "doxorubicin": 0.6, "etoposide": 0.45}),
    ("upr", 1, {"tunicamycin": 1, "thapsigargin": 0.75, "bortezomib": 0.35}),
    ("sterol", 1, {"atorvastatin": 1, "simvastatin": 0.8, "pitavastatin": 0.5}),
    ("hypoxia", 1, {"deferoxamine": 1, "roxadustat": 0.6}),
    ("oxidative", 1, {"sulforaphane": 1, "dimethyl fumarate": 0.7}),
    ("notch", 1, {"DLL1": 1, "jagged 1": 0.55}),
    ("vessel", 1, {"angiopoietin 1": 1}),
)
# fmt: on
# spelled like another perturbation, and against it
OPPOSITES = {
    "interleukin 1 receptor antagonist": ("interleukin 1 beta", "interleukin 1 alpha"),
    "interleukin 36 receptor antagonist": ("interleukin 36 gamma",),
    "follistatin": ("myostatin",),
    "angiopoietin 2": ("angiopoietin 1",),
}
SET_GENES, OTHER_GENES, BACKGROUND = 50, 50, 400
OWN_GENES, INTERACTIONS = 15, 14
Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Config:
    """What one simulated atlas is made with.

    Attributes:
        presence: share of the (perturbation, type) pairs that the atlas holds.
        cells: least and most cells of a perturbation, type and donor.
        interaction: how much programs act on each other.
        deal: whether a family's likenesses are dealt to its members anew.
    """

    name: str
    seed: int
    presence: float = 0.8
    cells: tuple[int, int] = (6, 20)
    interaction: float = 1.0
    deal: bool = False


MAIN = Config("simulated", 20261129)
HELD_BACK = Config("simulated, held back", 7919, presence=0.6, cells=(4, 14), interaction=1.5, deal=True)


@dataclass(frozen=True)
class Question:
    """What is asked, and what of the atlas is hidden meanwhile.

    Attributes:
        regime: what there is to answer from.
        hidden: (perturbation, cell type id) of the groups that are not shown.
        decoys: perturbations that must not be chosen.
    """

    regime: str
    perturbation: str
    cell_type_id: str
    hidden: frozenset[tuple[str, str]]
    decoys: frozenset[str] = frozenset()


class World:
    """The rates behind the cells; everything follows from the config."""

    def __init__(self, config: Config) -> None:
        rng = np.random.default_rng([config.seed, 0])
        self.config = config
        self.genes, members = _choose_genes(rng)
        n, k = len(self.genes), len(PROGRAMS)
        self.drives, self.family = _drives(rng, deal=config.deal)
        self.perturbations = list(self.drives)
        self._weights = np.zeros((k, n))
        for row, places in zip(self._weights, members, strict=True):
            row[places] = rng.lognormal(-0.4, 0.5, len(places)) * rng.choice((1, -1), len(places), p=(0.9, 0.1))
        self._pairs = np.array([rng.choice(k, 2, replace=False) for _ in range(INTERACTIONS)])
        self._acting = _sparse_rows(rng, INTERACTIONS, n, 40, 1.5 * config.interaction)
        self._own = dict(zip(self.drives, _sparse_rows(rng, len(self.drives), n, OWN_GENES, 0.5), strict=True))
        self._competence = np.exp(_along_tree(rng, k, 0.6)) * (_along_tree(rng, k, 1.0) > -1.3)
        self._resting = 0.3 * np.abs(_along_tree(rng, k, 1.0))
        self._open = _along_tree(rng, n, 1.0) > -0.6
        self._handling = _along_tree(rng, n, 0.2) * (rng.random(n) < 0.1)
        self._base = rng.normal(0, 1.3, n) + _along_tree(rng, n, 0.7)
        self._donor_base = rng.normal(0, 0.15, (len(DONORS), n))
        self._donor_drive = rng.uniform(0.75, 1.25, (len(DONORS), k))

    def response(self, perturbation: str, cell_type_id: str, donor: int) -> Array:
        """The change of the log rates, (n_genes,)."""
        row = list(TYPES).index(cell_type_id)
        resting = self._resting[row]
        driven = self.drives[perturbation] * self._competence[row] * self._donor_drive[donor]
        active = np.tanh(resting + driven) - np.tanh(resting)
        crossed = active[self._pairs[:, 0]] * active[self._pairs[:, 1]]
        change = (active @ self._weights + crossed @ self._acting + self._own[perturbation]) * self._open[row]
        return np.clip(change + self._handling[row], -3, 3)

    def draw(self, n: int, perturbation: str, cell_type_id: str, donor: int, rng: np.random.Generator) -> sp.csr_matrix:
        """Counts of ``n`` cells, negative binomial with a dispersion of 1/8 and about 3,000 counts a cell."""
        rates = self._base[list(TYPES).index(cell_type_id)] + self._donor_base[donor]
        if perturbation != CONTROL:
            rates = rates + self.response(perturbation, cell_type_id, donor)
        share = np.exp(rates) / np.exp(rates).sum()
        libraries = rng.lognormal(np.log(3000), 0.3, (n, 1))
        return sp.csr_matrix(rng.poisson(libraries * share * rng.gamma(8, 1 / 8, (n, share.size))).astype(np.float32))

    def atlas(self) -> ad.AnnData:
        """The cells that an atlas is made of; 48 controls of each type and donor."""
        rng = np.random.default_rng([self.config.seed, 1])
        parts, rows = [], []
        for perturbation in (CONTROL, *self.perturbations):
            for identifier in TYPES:
                held = perturbation == CONTROL or rng.random() < self.config.presence
                for donor, name in enumerate(DONORS):
                    n = 48 if perturbation == CONTROL else int(rng.integers(*self.config.cells, endpoint=True))
                    if held:
                        parts.append(self.draw(n, perturbation, identifier, donor, rng))
                        rows += [(perturbation, identifier, name)] * n
        obs = pd.DataFrame(rows, columns=["perturbation", "cell_type_id", "donor"])
        obs["cell_type"] = obs["cell_type_id"].map(load_ontology().label)
        obs = obs.astype("category").set_axis([f"cell{i}" for i in range(len(obs))])
        return ad.AnnData(sp.csr_matrix(sp.vstack(parts)), obs=obs, var=pd.DataFrame(index=self.genes))

    def truth(self, perturbation: str, cell_type_id: str, n: int = 200) -> Array:
        """The change of mean log1p(CP10k) in fresh cells, ``n`` of each donor on either side."""
        seed = [self.config.seed, 2, self.perturbations.index(perturbation), list(TYPES).index(cell_type_id)]
        rng = np.random.default_rng(seed)
        sides = [
            sp.vstack([self.draw(n, side, cell_type_id, donor, rng) for donor in range(len(DONORS))])
            for side in (perturbation, CONTROL)
        ]
        return log_fold_change(*sides)

    def mean_response(self, perturbation: str) -> Array:
        """The change of log rates over all types and donors."""
        return np.mean([self.response(perturbation, t, d) for t in TYPES for d in range(len(DONORS))], axis=0)

    def questions(self, held: set[tuple[str, str]], n: int) -> list[Question]:
        """``n`` questions of each regime, among the (perturbation, cell type id) that an atlas holds."""
        rng = np.random.default_rng([self.config.seed, 3])
        found = []
        for regime, pairs in (
            ("same perturbation elsewhere", [(p, t) for p, t in held if p in self.family]),
            ("mechanistic neighbours only", [(p, t) for p, t in held if self._relatives(p, held, t)]),
            ("decoy", [(p, t) for p, t in held if self._decoys(p)]),
            ("nothing good", [(p, t) for p, t in held if p in self.family]),
        ):
            # every perturbation once before any comes again
            turns: Counter[str] = Counter()
            ranked = []
            for i in rng.permutation(len(pairs)):
                pair = sorted(pairs)[i]
                ranked.append((turns[pair[0]], len(ranked), pair))
                turns[pair[0]] += 1
            found += [self._question(regime, *pair) for _, _, pair in sorted(ranked)[:n]]
        return found

    def _question(self, regime: str, perturbation: str, cell_type_id: str) -> Question:
        if regime == "same perturbation elsewhere":
            return Question(regime, perturbation, cell_type_id, frozenset({(perturbation, cell_type_id)}))
        out = {perturbation}
        if regime == "nothing good":
            out |= {p for p in self.perturbations if self._alike(p, perturbation)}
        hidden = frozenset((p, t) for p in out for t in TYPES)
        return Question(regime, perturbation, cell_type_id, hidden, self._decoys(perturbation))

    def _relatives(self, perturbation: str, held: set[tuple[str, str]], cell_type_id: str) -> list[str]:
        family = self.family.get(perturbation)
        return [p for p, f in self.family.items() if f == family and p != perturbation and (p, cell_type_id) in held]

    def _decoys(self, perturbation: str) -> frozenset[str]:
        return frozenset(name for name, partners in OPPOSITES.items() if perturbation in partners)

    def _alike(self, a: str, b: str) -> bool:
        """Whether a drives the cells as b does, or is of its family."""
        x, y = self.drives[a], self.drives[b]
        return self.family.get(a) == self.family.get(b) or bool(x @ y > 0.3 * np.linalg.norm(x) * np.linalg.norm(y))


def _choose_genes(rng: np.random.Generator) -> tuple[list[str], list[Array]]:
    """The genes, and the places of each program's."""
    named = [*(name for _, _, members in FAMILIES for name in members), *OPPOSITES]
    entries = [entry for name in named if (entry := load_catalogue().get(name))]
    expected = {gene.gene for entry in entries for gene in entry.response}
    anyone = sorted(known_symbols() - expected)
    programs = []
    for name in PROGRAMS.values():
        of_set = sorted(find_gene_set(name) or ())
        first = [gene for gene in of_set if gene in expected]
        rest = rng.permutation([gene for gene in of_set if gene not in expected])
        programs.append([*first, *rest][:SET_GENES] + list(rng.choice(anyone, OTHER_GENES, replace=False)))
    background = rng.choice(anyone, BACKGROUND, replace=False)
    genes = sorted({str(gene) for gene in (*expected, *background, *(g for program in programs for g in program))})
    place = {gene: i for i, gene in enumerate(genes)}
    return genes, [np.unique([place[str(gene)] for gene in program]) for program in programs]


def _drives(rng: np.random.Generator, *, deal: bool) -> tuple[dict[str, Array], dict[str, int]]:
    """How strongly each perturbation drives each program, and the number of its family; opposites have none."""
    drives: dict[str, Array] = {}
    family: dict[str, int] = {}
    names = list(PROGRAMS)
    for number, (program, sign, members) in enumerate(FAMILIES):
        main = np.zeros(len(names))
        main[names.index(program)] = sign
        sides = rng.choice([i for i, name in enumerate(names) if name != program], 2, replace=False)
        main[sides] = rng.uniform(0.25, 0.5, 2) * rng.choice((1, -1), 2)
        main /= np.linalg.norm(main)
        likenesses = list(members.values())
        if deal:
            likenesses[1:] = rng.permutation(likenesses[1:])
        for name, likeness in zip(members, likenesses, strict=True):
            apart = np.zeros(len(names))
            apart[rng.choice(len(names), 5, replace=False)] = rng.normal(0, 1, 5)
            apart -= (apart @ main) * main
            apart /= np.linalg.norm(apart)
            direction = likeness * main + np.sqrt(1 - likeness**2) * apart
            drives[name] = direction * 1.6 * rng.lognormal(0, 0.25)
            family[name] = number
    for name, partners in OPPOSITES.items():
        drives[name] = -drives[partners[0]] * rng.uniform(0.7, 1.0)
    return drives, family


def _along_tree(rng: np.random.Generator, n: int, spread: float) -> Array:
    """Normal values of standard deviation ``spread``, (types, n), alike where types share their way down the tree."""
    depth = max(map(len, TYPES.values()))
    of_node = {node: rng.normal(0, 1, n) for way in TYPES.values() for node in _nodes(way)}
    return spread / np.sqrt(depth) * np.array([sum(of_node[node] for node in _nodes(way)) for way in TYPES.values()])


def _nodes(way: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    return (way[: i + 1] for i in range(len(way)))


def _sparse_rows(rng: np.random.Generator, n_rows: int, n: int, filled: int, spread: float) -> Array:
    rows = np.zeros((n_rows, n))
    for row in rows:
        row[rng.choice(n, filled, replace=False)] = rng.normal(0, spread, filled)
    return rows
