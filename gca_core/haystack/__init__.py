"""HAYSTACK: find the cells that prompt a perturbation model best, within a bounded loop.

The values live in :mod:`gca_core.haystack.models`, the steps in :mod:`gca_core.haystack.steps`, and
the loop over them in :mod:`gca_core.haystack.run`.
"""
