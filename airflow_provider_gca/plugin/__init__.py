"""The page and its API inside Airflow: mounted at ``/gca`` of the API server."""
