"""How well a prediction agrees with what is known of the perturbation."""

from gca_core.grounding.models import Expectation, GroundingConfig, GroundingScore, GroundingStatus

__all__ = ["Expectation", "GroundingConfig", "GroundingScore", "GroundingStatus"]
