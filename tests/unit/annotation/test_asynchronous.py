import asyncio
import inspect

import pytest

import gca_core.annotation as annotation
from gca_core.errors import DataValidationError

LISTS = {"b": "MS4A1,CD79A,CD79B,CD19,BANK1", "m": "CD14,LYZ,S100A8,S100A9,FCN1"}
TWINS = [name for name in annotation.__all__ if name.endswith("_async")]


@pytest.mark.parametrize("name", TWINS)
def test_a_twin_has_the_signature_and_the_words_of_the_other(name):
    twin, other = getattr(annotation, name), getattr(annotation, name.removesuffix("_async"))
    assert inspect.iscoroutinefunction(twin)
    assert inspect.signature(twin) == inspect.signature(other)
    assert (twin.__doc__, twin.__name__) == (other.__doc__, name)


def test_every_annotating_function_has_a_twin():
    names = {"annotate_anndata", "annotate_rank_genes", "annotate_from_markers", "validate_anndata"}
    assert {name.removesuffix("_async") for name in TWINS} == names & set(annotation.__all__)


def test_the_event_loop_goes_on_while_a_twin_works():
    async def work():
        ticks = 0

        async def tick():
            nonlocal ticks
            while True:
                await asyncio.sleep(0.001)
                ticks += 1

        ticking = asyncio.create_task(tick())
        found = await asyncio.gather(*(annotation.annotate_from_markers_async(LISTS) for _ in range(3)))
        ticking.cancel()
        return found, ticks

    found, ticks = asyncio.run(work())
    expected = annotation.annotate_from_markers(LISTS)
    assert all(report.annotations == expected.annotations for report in found)
    assert ticks > 3


def test_labels_are_written_to_the_data_that_was_awaited(blood):
    report = asyncio.run(annotation.annotate_anndata_async(blood, "truth", tissue="blood"))
    assert len(report.annotations) == 5
    blood.obs["label"] = blood.obs["gptca_label"]
    judged = asyncio.run(annotation.validate_anndata_async(blood, "label", prefix="check_"))
    assert judged.judged_column == "label"
    assert "check_status" in blood.obs


def test_what_goes_wrong_is_raised_where_it_is_awaited():
    with pytest.raises(DataValidationError, match="there are no clusters"):
        asyncio.run(annotation.annotate_from_markers_async({}))


def test_a_cancelled_await_ends_at_once_and_the_work_goes_on(blood):
    async def work():
        task = asyncio.create_task(annotation.annotate_anndata_async(blood, "truth"))
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return "gptca_label" in blood.obs

    # asyncio.run waits for the worker thread in the end
    assert asyncio.run(work()) is False
    assert "gptca_label" in blood.obs
