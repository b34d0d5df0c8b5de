"""Predicting perturbed cells: requests, predictors and the job that runs them."""

from gca_core.inference.models import InferenceJob, InferenceRequest, InferenceResult, InferenceStatus

__all__ = ["InferenceJob", "InferenceRequest", "InferenceResult", "InferenceStatus"]
