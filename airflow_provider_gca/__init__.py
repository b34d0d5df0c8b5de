"""Apache Airflow provider for cell-type annotation, latent models and HAYSTACK.

This module imports nothing: provider discovery reads it before Airflow has finished loading.
"""

__version__ = "0.1.0"
