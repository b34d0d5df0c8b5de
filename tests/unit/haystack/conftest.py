"""Fixtures of this folder."""

from tests.helpers.haystack_atlas import context_of, kang_context, knowledge_context, query, run_with

__all__ = ["context_of", "kang_context", "knowledge_context", "query", "run_with"]
