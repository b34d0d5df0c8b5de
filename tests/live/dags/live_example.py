"""The example DAG of HAYSTACK, in an Airflow that really runs."""

from dags.gca_haystack import gca_haystack

gca_haystack()
