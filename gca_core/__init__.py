"""The science of airflow-provider-gca: annotation, latent models, HAYSTACK.

Works without Airflow. The sub-packages are imported on their own, so that ``import gca_core`` stays
light: ``from gca_core.annotation import annotate_anndata`` and so on.
"""

__version__ = "0.1.0"
