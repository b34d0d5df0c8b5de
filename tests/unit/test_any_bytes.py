"""Whatever bytes a stranger sends, each parser gives a value or says in one line what is wrong."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gca_core.annotation.markers.formats import read_markers
from gca_core.errors import GcaError
from tests.fuzz.parsers import PARSERS, TOKENS

PIECES = st.sampled_from(TOKENS) | st.binary(max_size=12)
EDITS = st.lists(st.tuples(st.floats(0, 1), st.integers(0, 12), PIECES), max_size=4)


def changed(seed: bytes, edits: list[tuple[float, int, bytes]]) -> bytes:
    """A valid file with pieces taken out and others put in their place."""
    for where, n, piece in edits:
        at = int(where * len(seed))
        seed = seed[:at] + piece + seed[at + n :]
    return seed


@pytest.mark.slow
@pytest.mark.parametrize("name", PARSERS)
def test_any_bytes_give_a_value_or_a_word(name: str) -> None:
    parse, seeds = PARSERS[name]

    @settings(max_examples=100)
    @given(st.builds(changed, st.sampled_from(seeds), EDITS) | st.binary(max_size=200))
    def tried(data: bytes) -> None:
        try:
            parse(data)
        except GcaError as error:
            assert str(error).strip()

    tried()


@pytest.mark.parametrize("end", [b"Human\n", b"Human,B cell\n", b",,,,,,,\n"])
def test_rows_of_other_programs_tables_that_end_too_soon_cost_no_other_row(end: bytes) -> None:
    for seed in PARSERS["marker_table"][1][1:]:
        longer = seed + end.replace(b",", b"\t" if b"\t" in seed else b",")
        whole, found = (read_markers(data, name="a.csv").markers for data in (seed, longer))
        assert whole and all(marker in found for marker in whole)
