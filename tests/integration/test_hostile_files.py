"""Files that would read other files are refused by everything that takes cells, before anything is read of them."""

import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pytest
import zarr

from gca_core.annotation import AnnotationConfig, annotate_file
from gca_core.atlas.ingest.source import CountSource
from gca_core.errors import DataValidationError
from gca_core.haystack.results.compare import compare_with_truth
from gca_core.haystack.steps import predicted_change
from gca_core.inference.models import InferenceRequest
from gca_core.inference.shift import ShiftPredictor
from gca_core.latent.config import make_config
from gca_core.latent.data.adapter import DataAdapter
from gca_core.matrix.cells import open_cells
from gca_core.matrix.files.hostile import refuse_foreign_data
from tests.helpers.latent_counts import counts_with_groups

SECRET = b"password=hunter2;" * 40
N_CELLS = 80


def ingest(path: Path) -> None:
    with open_cells(str(path)) as cells:
        CountSource(cells, None)


def infer(path: Path) -> None:
    uri = str(path)
    ShiftPredictor().validate(
        InferenceRequest(candidate_id="c", prompt_uri=uri, query_uri=uri, control_uri=uri, output_uri=f"{uri}.out")
    )


READERS: dict[str, Callable[[Path], object]] = {
    "annotation": lambda path: annotate_file(
        AnnotationConfig(input_uri=str(path), output_uri=str(path.parent / "out"), cluster_key="group")
    ),
    "vae": lambda path: DataAdapter(make_config({"input_uri": str(path), "output_uri": str(path.parent / "out")})),
    "atlas": ingest,
    "inference": infer,
    "prediction": lambda path: predicted_change(str(path), str(path)),
    "comparison": lambda path: compare_with_truth(str(path), counts_with_groups(), counts_with_groups()),
}


def external_storage(file: h5py.File, secret: Path) -> None:
    shape = (N_CELLS,)
    file["obs"].create_dataset("leak", shape, "S8", external=[(str(secret), 0, h5py.h5f.UNLIMITED)])


def external_link(file: h5py.File, secret: Path) -> None:
    with h5py.File(secret.with_suffix(".h5"), "w") as other:
        other["x"] = np.ones(N_CELLS)
    file["obs/leak"] = h5py.ExternalLink(str(secret.with_suffix(".h5")), "x")


def soft_link_through_an_external_one(file: h5py.File, secret: Path) -> None:
    with h5py.File(secret.with_suffix(".h5"), "w") as other:
        other["x"] = np.ones(N_CELLS)
    file["uns/deep/down"] = h5py.ExternalLink(str(secret.with_suffix(".h5")), "/")
    file["obs/leak"] = h5py.SoftLink("/uns/deep/down/x")


def virtual_dataset(file: h5py.File, secret: Path) -> None:
    with h5py.File(secret.with_suffix(".h5"), "w") as other:
        other["x"] = np.ones(N_CELLS)
    layout = h5py.VirtualLayout((N_CELLS,), "f8")
    layout[:] = h5py.VirtualSource(str(secret.with_suffix(".h5")), "x", (N_CELLS,))
    file["layers"].create_virtual_dataset("leak", layout)


def a_circle(file: h5py.File, secret: Path) -> None:
    file["uns/a/b"] = h5py.SoftLink("/uns")


HDF5 = [external_storage, external_link, soft_link_through_an_external_one, virtual_dataset, a_circle]


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("attack", HDF5, ids=lambda attack: attack.__name__)
def test_hdf5_that_reads_other_files_is_refused(tmp_path, attack, reader):
    secret, path = tmp_path / "secret.txt", tmp_path / "cells.h5ad"
    secret.write_bytes(SECRET)
    cells = counts_with_groups(N_CELLS)
    cells.obs["leak"] = 1.0
    cells.write_h5ad(path)
    with h5py.File(path, "r+") as file:
        del file["obs/leak"]
        attack(file, secret)
    with pytest.raises(DataValidationError, match=r"is refused, and nothing was read of it.*holds all of its data"):
        READERS[reader](path)
    assert not (tmp_path / "out").exists()


def symlink(store: Path, secret: Path) -> None:
    (store / "obs" / "leak").symlink_to(secret)


def linked_folder(store: Path, secret: Path) -> None:
    (store / "layers" / "leak").symlink_to(secret.parent, target_is_directory=True)


def pipe(store: Path, secret: Path) -> None:
    os.mkfifo(store / "uns" / "leak")


def pickles(store: Path, secret: Path) -> None:
    (store / "uns" / ".zarray").write_text(json.dumps({"filters": [{"id": "x"}]}).replace("x", "\\u0070ickle"))


@pytest.mark.parametrize("reader", ["annotation", "vae"])
@pytest.mark.parametrize("attack", [symlink, linked_folder, pipe, pickles], ids=lambda attack: attack.__name__)
def test_zarr_that_reads_other_files_or_runs_code_is_refused(tmp_path, attack, reader):
    secret, store = tmp_path / "secret.txt", tmp_path / "cells.zarr"
    secret.write_bytes(SECRET)
    counts_with_groups(N_CELLS).write_zarr(store)
    attack(store, secret)
    with pytest.raises(DataValidationError, match="is refused, and nothing was read of it"):
        READERS[reader](store)


@pytest.mark.parametrize(
    ("name", "mode"), [("../x", 0o100644), ("/x", 0o100644), ("a/../../x", 0o100644), ("x", 0o120777), ("x", 0o010644)]
)
def test_archives_with_links_or_names_that_lead_out_are_refused(tmp_path: Path, name: str, mode: int) -> None:
    path = tmp_path / "cells.zarr.zip"
    member = zipfile.ZipInfo(name)
    member.external_attr = mode << 16
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(member, "/etc/passwd")
    with pytest.raises(DataValidationError, match="is refused, and nothing was read of it"):
        refuse_foreign_data(path, path.name)


def test_links_within_a_file_are_nothing_to_refuse(tmp_path: Path) -> None:
    path = tmp_path / "cells.h5ad"
    ad.AnnData(np.ones((3, 2), dtype=np.float32)).write_h5ad(path)
    with h5py.File(path, "r+") as file:
        file["obsm/same"] = h5py.SoftLink("/X")
        file["layers/same"] = file["X"]
        file["uns/none"] = h5py.SoftLink("/nowhere")
    refuse_foreign_data(path, path.name)
    root = zarr.open_group(str(tmp_path / "x.zarr"), mode="w")
    root.attrs["made by"] = "hand"
    refuse_foreign_data(tmp_path / "x.zarr", "x.zarr")
