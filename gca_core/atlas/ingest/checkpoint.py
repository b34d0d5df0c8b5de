"""How far an ingest has come, so that one that was killed goes on where it stopped."""

import time
import zipfile
from pathlib import Path

import numpy as np
import numpy.typing as npt

PROGRESS_FILE = "progress.npz"
SAVE_SECONDS = 5.0
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class IngestCheckpoint:
    """The rows of the file that are done, and what was learned of their cells.

    It counts only as long as the machine runs: what was written survives the process that wrote it, but not
    always the machine.

    Args:
        folder: where it is kept, beside the files that are being written.
        n_cells: cells of the file.
        n_columns: numbers kept per cell.
    """

    def __init__(self, folder: Path, n_cells: int, n_columns: int) -> None:
        self._path = folder / PROGRESS_FILE
        self._shape = (n_cells, n_columns)
        self._saved = time.monotonic()
        self.next_row = 0
        self.counted = False
        self.quality: npt.NDArray[np.float32] = np.zeros(self._shape, dtype=np.float32)
        self._load()

    def advance(self, next_row: int) -> None:
        """Note that all rows before this one are written; kept on disk every few seconds."""
        self.next_row = next_row
        if time.monotonic() - self._saved >= SAVE_SECONDS:
            self.save()

    def restart(self, *, counted: bool) -> None:
        """Begin anew; ``counted`` says that the sizes of the cells have to be counted."""
        self.next_row, self.counted = 0, counted
        self._path.unlink(missing_ok=True)

    def save(self) -> None:
        """Keep it on disk, as a whole."""
        staging = self._path.with_suffix(".new.npz")
        np.savez(
            staging,
            quality=self.quality[: self.next_row],
            next_row=self.next_row,
            counted=self.counted,
            boot=_boot_id(),
        )
        staging.replace(self._path)
        self._saved = time.monotonic()

    def remove(self) -> None:
        """Forget it, once all is written."""
        self._path.unlink(missing_ok=True)

    def _load(self) -> None:
        try:
            with np.load(self._path, allow_pickle=False) as kept:
                next_row, quality = int(kept["next_row"]), kept["quality"]
                if str(kept["boot"]) != _boot_id() or quality.shape != (next_row, self._shape[1]):
                    return
                counted = bool(kept["counted"])
        except (EOFError, OSError, KeyError, ValueError, zipfile.BadZipFile):
            return
        if next_row <= self._shape[0]:
            self.next_row, self.counted = next_row, counted
            self.quality[:next_row] = quality


def _boot_id() -> str:
    """What identifies this run of the machine; the time where the system doesn't say, so that nothing is resumed."""
    try:
        return _BOOT_ID.read_text(encoding="ascii").strip()
    except OSError:
        return str(time.time())
