"""Words of questions: filler, species, names of cells that the Cell Ontology lacks, and how names are varied.

The lists are compiled for this project from the field's usage; an id is checked against the ontology when a
question is read, so that one that a release drops is never given out.
"""

import re
import unicodedata
from collections.abc import Iterator, Mapping
from types import MappingProxyType

_STOP_WORDS = """a an the of in to by with under upon after on for from and or is are be how what which would do does
    did will can could should might may happens happen if when we my me you give given show tell predict predicted
    expected expect respond responds response responses react reacts reaction change changes changed look looks like
    treated treat treatment treatments stimulated stimulate stimulation stimulating exposed exposure expose effect
    effects affect affects alter alters human gene genes expression transcriptional transcriptome programme program
    cell cells their its it this that there any into due because acting acts act against given gets get sees see seen
    receive receives incubated incubation cultured culture grown plus via using w/ i.e e.g matured polarised polarized
    primed pulsed challenged about as at between toward towards ask"""
STOP = frozenset(_STOP_WORDS.split())

# adjectives that leave the type of a cell as it is
_HARMLESS_WORDS = """primary human adult fresh frozen isolated purified sorted resting quiescent healthy donor patient
    patients normal live single bulk cultured circulating peripheral blood derived these those all some most total
    unstimulated untreated control stimulated activated treated primed my your our expanded ex vivo in vitro ok
    pre-treated low-passage early late young old male female volunteer volunteers different several many"""
HARMLESS = frozenset(_HARMLESS_WORDS.split()) | STOP

# one word that the ontology takes for a cell, but a question doesn't
_ALONE_WORDS = """alpha beta gamma delta epsilon cell cells blood stem be plasma epithelial progenitor culture
    cultured lens dendritic club ciliated endothelial secretory basal target source hair tumor tumour cancer null
    bone heart adipose nerve cartilage killer naive memory effector helper regulatory mono am mature immature host donor
    recipient cap tip"""
NOT_ALONE = frozenset(_ALONE_WORDS.split())

SPECIES = re.compile(
    r"\b(mouse|mice|murine|mus musculus|rats?|rattus|zebrafish|danio|drosophila|fruit fl(?:y|ies)|c\. ?elegans|"
    r"macaques?|rhesus|monkeys?|primates?|porcine|pigs?|swine|bovine|cows?|cattle|equine|horses?|ovine|sheep|"
    r"canine|dogs?|feline|cats?|rabbits?|hamsters?|guinea pigs?|ferrets?|chickens?|avian|xenopus|yeast|arabidopsis|"
    r"bmdms?|bmdcs?|splenocytes of c57bl/6|c57bl/?6|balb/?c|mefs?|raw ?264(?:\.7)?|nih ?3t3|3t3-?l1|"
    r"bv-?2|b16|4t1|ct26)\b",
    re.IGNORECASE,
)

# how long and how much: nothing that a prompt is chosen by
AMOUNT = re.compile(
    r"(?<![\w-])(?:for |at )?\d+(?:[.,]\d+)?\s*(?:h|hr|hrs|hours?|min|mins|minutes?|d|days?|weeks?|"
    r"[pnuµμm]?[gM]/m?[lL]|[pnuµμm]g|[pnuµμm]M|u/ml|iu/ml|units?/ml|%)(?![\w-])",
    re.IGNORECASE,
)

# names of cells beside those of the ontology and its aliases; lower case, singular
CELL_NAMES: Mapping[str, str] = MappingProxyType(
    {
        "microglia": "CL:0000129",
        "huvec": "CL:0002618",
        "human umbilical vein endothelial cell": "CL:0002618",
        "umbilical vein endothelial cell": "CL:0002618",
        "haec": "CL:0002544",
        "hmvec": "CL:2000008",
        "hdf": "CL:0002551",
        "nhdf": "CL:0002551",
        "nhek": "CL:0000312",
        "nhbe": "CL:0002328",
        "hbec": "CL:0002328",
        "bronchial epithelium": "CL:0002328",
        "airway epithelium": "CL:0002368",
        "pneumocyte": "CL:0000322",
        "modc": "CL:0011031",
        "mo-dc": "CL:0011031",
        "mddc": "CL:0011031",
        "mdm": "CL:0000235",
        "monocyte-derived macrophage": "CL:0000235",
        "tumor-associated macrophage": "CL:0000235",
        "tumour-associated macrophage": "CL:0000235",
        "m0 macrophage": "CL:0000235",
        "inkt": "CL:0000921",
        "inkt cell": "CL:0000921",
        "invariant nkt cell": "CL:0000921",
        "invariant natural killer t cell": "CL:0000921",
        "natural killer t cell": "CL:0000814",
        "cd56bright nk cell": "CL:0000938",
        "cd56dim nk cell": "CL:0000939",
        "cd16+ nk cell": "CL:0000939",
        "cd1c+ dendritic cell": "CL:0002399",
        "cd1c dendritic cell": "CL:0002399",
        "cd141+ dendritic cell": "CL:0002394",
        "clec9a+ dendritic cell": "CL:0002394",
        "vd1 t cell": "CL:0000798",
        "vdelta2 t cell": "CL:0000798",
        "gd t cell": "CL:0000798",
        "cd3+ t cell": "CL:0000084",
        "pan t cell": "CL:0000084",
        "cd20+ b cell": "CL:0000236",
        "tex": "CL:0011025",
        "caf": "CL:0000057",
        "cancer-associated fibroblast": "CL:0000057",
        "aortic smooth muscle cell": "CL:0002539",
        "bone marrow stromal cell": "CL:0010001",
        "mdsc": "CL:0000889",
        "myeloid-derived suppressor cell": "CL:0000889",
        "hspc": "CL:0008001",
        "polymorphonuclear leukocyte": "CL:0000775",
        "satellite cell": "CL:0000594",
        "muscle stem cell": "CL:0000594",
        "pancreatic islet beta cell": "CL:0000169",
        "rpe": "CL:0002586",
        "rgc": "CL:0000740",
        "npc": "CL:0011020",
        "nsc": "CL:0000047",
        "esc": "CL:0002322",
        "proximal tubule cell": "CL:0002306",
        "renal proximal tubule cell": "CL:0002306",
        "proximal tubular epithelial cell": "CL:0002306",
        "tumor cell": "CL:0001064",
        "tumour cell": "CL:0001064",
        "cancer cell": "CL:0001064",
        "white blood cell": "CL:0000738",
        "immune cell": "CL:0000738",
    }
)

# mixtures: when a type is named beside them, they say where it was
MIXTURES = frozenset({"CL:2000001", "CL:0000738", "CL:0000842", "CL:0000081", "CL:0000542"})

# lines are no types of the ontology; what they come from is suggested
CELL_LINES: Mapping[str, str] = MappingProxyType(
    {
        "thp-1": "CL:0000576",
        "thp1": "CL:0000576",
        "u937": "CL:0000576",
        "hl-60": "CL:0000775",
        "hl60": "CL:0000775",
        "k562": "CL:0000765",
        "jurkat": "CL:0000084",
        "molt-4": "CL:0000084",
        "ramos": "CL:0000236",
        "raji": "CL:0000236",
        "gm12878": "CL:0000236",
        "nk-92": "CL:0000623",
        "nk92": "CL:0000623",
        "hepg2": "CL:0000182",
        "huh7": "CL:0000182",
        "heparg": "CL:0000182",
        "a549": "CL:0002063",
        "beas-2b": "CL:0002328",
        "calu-3": "CL:0002328",
        "caco-2": "CL:0000584",
        "caco2": "CL:0000584",
        "ht-29": "CL:0002563",
        "ht29": "CL:0002563",
        "hct116": "CL:0002563",
        "mcf7": "CL:0002327",
        "mcf-7": "CL:0002327",
        "mcf10a": "CL:0002327",
        "hek": "CL:0002518",
        "hek293": "CL:0002518",
        "hek293t": "CL:0002518",
        "hela": "CL:0002535",
        "hacat": "CL:0000312",
        "rpe1": "CL:0002586",
        "hrpe1": "CL:0002586",
        "sh-sy5y": "CL:0000540",
        "a375": "CL:0000148",
        "lncap": "CL:0002231",
        "imr-90": "CL:0002553",
        "bj": "CL:0002551",
    }
)

_ORGANS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "dermal": ("dermis", "skin"),
        "cutaneous": ("skin",),
        "pulmonary": ("lung",),
        "hepatic": ("liver",),
        "renal": ("kidney",),
        "cardiac": ("cardiac tissue", "heart"),
        "gastric": ("stomach",),
        "colonic": ("colon",),
        "intestinal": ("intestine",),
        "splenic": ("spleen",),
        "synovial": ("synovial membrane",),
        "gingival": ("gingiva",),
        "prostatic": ("prostate",),
        "thymic": ("thymus",),
        "lung": ("lung",),
        "skin": ("skin", "dermis"),
    }
)
_CD_CELL = re.compile(r"\bcd([48])(?:\+|-positive|\s+positive|\spos|pos)?(?=[\s,]|$)", re.IGNORECASE)
_REWRITES: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern, re.IGNORECASE), new)
    for pattern, new in (
        (r"\bt-cell", "T cell"),
        (r"\bb-cell", "B cell"),
        (r"\b(t|b|nk) lymphocyte", r"\1 cell"),
        (r"\blymphocyte", "cell"),
        (r"\bgranulocytes?$", ""),
        (r"\bDCs?$", "dendritic cell"),
        (r"\bnatural killer t\b", "NK T"),
        (r"\bnatural killer\b", "NK"),
        (r"\bt helper (\d+)", r"T-helper \1"),
        (r"\bth-?(\d+)\b", r"T-helper \1"),
        (r"\btype (\d) innate lymphoid", r"group \1 innate lymphoid"),
        (r"\btype 1\b", "type I"),
        (r"\btype 2\b", "type II"),
        (r"\btype ii pneumocyte", "type II pneumocyte"),
        (r"haema", "hema"),
        (r"haemo", "hemo"),
        (r"\bepithelium\b", "epithelial cell"),
        (r"\bendothelium\b", "endothelial cell"),
        (r"\bcytotoxic cd8", "CD8"),
        (r"(?<=cd56)[- ]?(bright|dim)", r" \1"),
    )
)


def plain_greek(text: str) -> str:
    """Greek letters by name, set apart from each other: ``γδT`` becomes ``gamma-delta T``."""
    parts: list[str] = []
    greek = False
    for char in text:
        name = unicodedata.name(char, "")
        if name.startswith("GREEK SMALL LETTER ") and not unicodedata.combining(char):
            spelled = name.removeprefix("GREEK SMALL LETTER ").split()[0].lower().replace("lamda", "lambda")
            parts.append(f"-{spelled}" if parts and parts[-1][-1:].isalpha() else spelled)
            greek = True
        else:
            parts.append(f" {char}" if greek and char.isupper() else char)
            greek = False
    return "".join(parts)


def singular(phrase: str) -> str:
    """A phrase whose last word lost its plural ending."""
    return (
        phrase[:-1] if len(phrase) > 2 and phrase.endswith("s") and not phrase.endswith(("ss", "us", "is")) else phrase
    )


def cell_variants(phrase: str) -> Iterator[str]:
    """Other ways to write the name of a cell type, the nearest first; the phrase itself comes first."""
    seen: set[str] = set()
    for variant in _variants(singular(" ".join(plain_greek(phrase).split()))):
        cleaned = " ".join(variant.split())
        if cleaned and cleaned not in seen:
            seen.add(cleaned)
            yield cleaned


def _variants(phrase: str) -> Iterator[str]:
    yield phrase
    rewritten = phrase
    for pattern, new in _REWRITES:
        rewritten = pattern.sub(new, rewritten)
    yield rewritten
    for base in (phrase, rewritten):
        if _CD_CELL.search(base):
            yield _CD_CELL.sub(r"CD\1-positive, alpha-beta", base)
    first, _, rest = rewritten.partition(" ")
    for organ in _ORGANS.get(first.casefold(), ()):
        yield f"{rest} of {organ}"
        yield f"{organ} {rest}"
