"""HAYSTACK in an Airflow that really runs."""

import json

import pytest

from gca_core.config import load_settings
from gca_core.haystack.models import IterationConfig
from gca_core.haystack.run import run_haystack
from gca_core.io import read_json
from tests.helpers.live_airflow import LiveAirflow

QUESTION = "How would CD14+ monocytes respond to interferon beta?"


@pytest.mark.slow
def test_the_canonical_log_is_that_of_the_command_to_the_byte(airflow: LiveAirflow, tmp_path) -> None:
    run = airflow.trigger("gca_haystack", question=QUESTION, max_iterations=1)
    airflow.wait_for_run(run, "success", "failed")
    assert airflow.get(run)["state"] == "success", airflow.log(run)
    outputs = airflow.output(run, "haystack.finalize")
    plain = run_haystack(
        QUESTION,
        config=IterationConfig(max_iterations=1, score_threshold=9, ontology_distance=4),
        settings=load_settings(home=airflow.gca_home),
        results_uri=str(tmp_path),
        dataset=airflow.output(run, "prepare", "dataset"),
    )
    logs = [json.dumps(read_json(uri)["canonical"]) for uri in (outputs["json_uri"], plain.json_uri)]
    assert logs[0] == logs[1]
