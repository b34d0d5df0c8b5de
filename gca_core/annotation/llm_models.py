"""Where scripts written against earlier versions look for the options of models."""

from gca_core.annotation.llm.models import LlmOptions as LlmOptions
