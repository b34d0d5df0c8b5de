"""Simulated blood with a marker table of its own, so that tests of models depend on no other markers."""

import anndata as ad
import numpy as np

from gca_core.annotation.markers.database import MarkerDatabase
from gca_core.annotation.markers.formats import parse_markers
from tests.helpers.blood import MIXTURE, simulate

HEPATOCYTE = "CL:0000182"
GENES = {
    MIXTURE["b"]: "CD79A CD79B MS4A1 CD19 PAX5 FCRLA BANK1 BLK",
    MIXTURE["nk"]: "NKG7 GNLY KLRD1 KLRF1 NCAM1 SH2D1B KLRC1 PRF1",
    "CL:0000576": "LYZ CST3 FCN1 CTSS AIF1 LST1 TYROBP SPI1",
    MIXTURE["cd14"]: "CD14 S100A8 S100A9 S100A12 VCAN CSF3R MNDA RBP7",
    MIXTURE["cd16"]: "FCGR3A CDKN1C MS4A7 HES4 CKB LYPD2 RHOC VMO1",
    MIXTURE["mega"]: "PPBP PF4 GP9 ITGA2B TUBB1 TREML1 CMTM5 GNG11",
    HEPATOCYTE: "ALB APOA1 APOA2 TTR CYP3A4 FGB SERPINA1 TF",
}
TABLE = "cell_type,gene_symbol\n" + "".join(f"{t},{gene}\n" for t, genes in GENES.items() for gene in genes.split())


def blood_markers() -> MarkerDatabase:
    """The table as a database."""
    return MarkerDatabase(parse_markers(TABLE), name="blood", content_hash="blood")


def simulated_blood() -> ad.AnnData:
    """Counts of the five types of the mixture; nothing expresses what marks a hepatocyte."""
    adata = simulate(blood_markers(), MIXTURE)
    adata.X[:, np.flatnonzero(adata.var_names.isin(GENES[HEPATOCYTE].split()))] = 0.0
    # coordinates that are there spare the UMAP
    adata.obsm["X_umap"] = adata.X[:, :2].copy()
    return adata
