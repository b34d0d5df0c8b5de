"""A person's answer to the results so far: what is shown, and what the words of the answer mean."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

from gca_core.haystack.models import Feedback, HaystackRun
from gca_core.pages import render_markdown

if TYPE_CHECKING:
    from gca_core.haystack.context import HaystackContext

GO_ON, STOP = "Go on", "Stop here"
MAX_NOTE = 2000
_PARTS = re.compile(r"[\n;]+")


def render_so_far(run: HaystackRun) -> str:
    """The results so far as Markdown, for a person to decide on."""
    evaluations = sorted(run.evaluations(), key=lambda e: e.score or 0.0, reverse=True)
    return render_markdown("gca_core.haystack", "so_far.md.j2", run=run, evaluations=evaluations)


def read_answer(
    run: HaystackRun,
    context: HaystackContext,
    *,
    stop: bool = False,
    exclude: str = "",
    prefer: str = "",
    note: str = "",
    by: str = "",
) -> Feedback:
    """What the words of an answer mean.

    Args:
        run: what was answered to.
        context: knows groups and pathways.
        stop: no further iteration is wanted.
        exclude: groups, a line or semicolon between: their ids, or a dataset, perturbation, cell type or donor, which
            means all of its groups.
        prefer: names of gene sets or footprints, likewise.
        note: for the report.
        by: who says it.
    """
    groups, unknown = _groups(run, context, _parts(exclude))
    pathways, strange = _pathways(context, _parts(prefer))
    notes = tuple(f"the atlas has no group {name!r}" for name in unknown)
    notes += tuple(f"no gene set or footprint is called {name!r}" for name in strange)
    return Feedback(
        iteration=len(run.iterations) - 1,
        stop=stop,
        excluded_group_ids=groups,
        preferred_pathways=pathways,
        note=" ".join(note.split())[:MAX_NOTE],
        notes=notes,
        by=by,
    )


def _parts(text: str) -> list[str]:
    return list(dict.fromkeys(part.strip() for part in _PARTS.split(text) if part.strip()))


def _groups(run: HaystackRun, context: HaystackContext, names: list[str]) -> tuple[tuple[str, ...], list[str]]:
    """The groups that names mean, and the names that mean none; O(groups of the atlas)."""
    if not names:
        return (), []
    found: dict[str, list[str]] = {}
    for group in context.require_atlas().groups(dataset=run.query.dataset, is_control=False):
        own = (group.group_id, group.dataset, group.perturbation, group.cell_type, group.cell_type_id, group.donor)
        for name in {part.casefold() for part in own if part}:
            found.setdefault(name, []).append(group.group_id)
    ids = {group_id for name in names for group_id in found.get(name.casefold(), ())}
    return tuple(sorted(ids)), [name for name in names if name.casefold() not in found]


def _pathways(context: HaystackContext, names: list[str]) -> tuple[tuple[str, ...], list[str]]:
    knowledge = context.knowledge
    known = {_plain(name): name for name in (*knowledge.gene_sets, *knowledge.footprints)}
    found = {name: known.get(_plain(name)) or known.get(_plain(f"hallmark {name}")) for name in names}
    return _present(found.values()), [name for name, meant in found.items() if meant is None]


def _present(names: Iterable[str | None]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for name in names if name))


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", " ", name.casefold()).strip()
