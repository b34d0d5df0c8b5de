"""The LLM annotator: asks a model about clusters in batches, and loses nothing when something fails.

What comes back is checked cluster by cluster. Answers are cached as they arrive, so a run that breaks off goes
on from there.
"""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from gca_core.annotation.llm.answer_cache import AnswerCache
from gca_core.annotation.llm.models import BatchAnswer, ClusterAnswer, IdentifiedAnswer, LlmOptions, ModelOutcome
from gca_core.annotation.llm.prompts import Prompts, load_prompts, make_messages, sent_markers
from gca_core.annotation.models import ClusterMarkers
from gca_core.errors import LLMError
from gca_core.io import content_hash
from gca_core.llm.chat import ChatClient
from gca_core.llm.failures import InvalidAnswerError
from gca_core.llm.structured import ask
from gca_core.progress import report_progress

log = logging.getLogger(__name__)

NOT_ANSWERED = "the model left the cluster out, also when it was asked again"
ID_PREFIX = "k"
NO_SYMBOLS = "the cluster has no gene symbols to ask about"


@dataclass(frozen=True)
class Setting:
    """What all clusters of a data set share in the prompts and the cache keys."""

    species: str
    tissue: str | None
    marker_database: str
    prompts: Prompts = field(default_factory=load_prompts)


@dataclass
class _Batch:
    """The clusters of one prompt, by opaque id, and what became of them."""

    markers: dict[str, tuple[str, ...]]
    answers: dict[str, ClusterAnswer] = field(default_factory=dict)
    failure: str = NOT_ANSWERED
    asked: int = 0
    notes: list[str] = field(default_factory=list)

    @property
    def missing(self) -> dict[str, tuple[str, ...]]:
        return {i: genes for i, genes in self.markers.items() if i not in self.answers}


def ask_model(
    clusters: Sequence[ClusterMarkers],
    client: ChatClient,
    setting: Setting,
    options: LlmOptions,
    cache: AnswerCache | None = None,
) -> ModelOutcome:
    """Ask one model about clusters; never fails because of the model.

    Clusters with an answer in the cache are not asked about; those that an answer leaves out are asked about once
    more. Answers for clusters that don't exist are dropped and noted.

    Args:
        clusters: n clusters, whose names and sizes stay here.
        client: calls the model.
        setting: species, tissue, marker database and prompts.
        options: chunk size and concurrency.
        cache: None neither reads nor writes one.
    """
    genes = [sent_markers(cluster) for cluster in clusters]
    keys = [answer_key(g, client, setting) for g in genes]
    answers: list[ClusterAnswer | None] = [
        cache.get(k) if cache and g else None for k, g in zip(keys, genes, strict=True)
    ]
    cached = sum(a is not None for a in answers)
    failures: list[str | None] = [None if a or g else NO_SYMBOLS for a, g in zip(answers, genes, strict=True)]
    ids = {f"{ID_PREFIX}{i + 1}": i for i, (a, g) in enumerate(zip(answers, genes, strict=True)) if a is None and g}
    batches = _batches({name: genes[i] for name, i in ids.items()}, options.chunk_size)
    log.info("%s: %d answers from the cache, %d clusters to ask about", client.config.name, cached, len(ids))

    def work(batch: _Batch) -> None:
        _ask_batch(batch, client, setting)
        if cache is not None:
            for name, answer in batch.answers.items():
                cache.put(keys[ids[name]], answer, model=client.config.name, prompt_version=setting.prompts.version)

    _run(work, batches, options.chat.max_concurrency)
    for batch in batches:
        for name in batch.markers:
            answers[ids[name]] = batch.answers.get(name)
            failures[ids[name]] = None if name in batch.answers else batch.failure
    return ModelOutcome(
        model=client.config.name,
        answers=tuple(answers),
        failures=tuple(failures),
        cached=cached,
        batches=sum(batch.asked for batch in batches),
        notes=tuple(f"{client.config.name}: {note}" for batch in batches for note in batch.notes),
    )


def _run(work: Callable[[_Batch], None], batches: Sequence[_Batch], max_workers: int) -> None:
    """Work on all batches; when one raises or the user interrupts, those that wait are not begun."""
    if not batches:
        return
    report_progress("ask", 0, len(batches))
    pool = ThreadPoolExecutor(max_workers=min(max_workers, len(batches)))
    try:
        # each thread logs under the request that it works for
        contexts = [copy_context() for _ in batches]
        finished = pool.map(lambda context, batch: context.run(work, batch), contexts, batches)
        for done, _ in enumerate(finished, start=1):
            report_progress("ask", done, len(batches))
    finally:
        pool.shutdown(cancel_futures=True)


def answer_key(genes: Sequence[str], client: ChatClient, setting: Setting) -> str:
    """SHA-256 of everything that decides an answer; neither cluster names nor the other clusters are in it."""
    return content_hash(
        {
            "markers": list(genes),
            "species": setting.species,
            "tissue": setting.tissue,
            "marker_database": setting.marker_database,
            "model": client.config.identity,
            "temperature": client.options.temperature,
            "max_output_tokens": client.options.max_output_tokens,
            "prompt": setting.prompts.version,
        }
    )


def _batches(markers: Mapping[str, tuple[str, ...]], size: int) -> list[_Batch]:
    items = list(markers.items())
    return [_Batch(dict(items[i : i + size])) for i in range(0, len(items), size)]


def _ask_batch(batch: _Batch, client: ChatClient, setting: Setting) -> None:
    """Ask, and once more about what is missing: in halves where the answer as a whole was unusable."""
    try:
        usable = _ask_once(batch, batch.missing, client, setting)
        parts = _batches(batch.missing, max(1, len(batch.markers) if usable else (len(batch.markers) + 1) // 2))
        for part in parts:
            _ask_once(batch, part.markers, client, setting)
    except LLMError as error:
        batch.failure = str(error)
        log.warning("%d clusters are left without an answer: %s", len(batch.missing), error)


def _ask_once(batch: _Batch, wanted: Mapping[str, tuple[str, ...]], client: ChatClient, setting: Setting) -> bool:
    """Whether the answer had the right form; in any case its usable parts are taken."""
    batch.asked += 1
    messages = make_messages(wanted, species=setting.species, tissue=setting.tissue, prompts=setting.prompts)
    try:
        found: Sequence[IdentifiedAnswer] = ask(
            client, messages, BatchAnswer, repair_prompt=setting.prompts.repair
        ).clusters
        batch.failure = NOT_ANSWERED
        usable = True
    except InvalidAnswerError as error:
        found, usable = _salvage(error.data), False
        batch.failure = f"the model's answer could not be used: {error}"
        batch.notes.append(batch.failure)
    names = _names(wanted, {answer.id for answer in found})
    for answer in found:
        name = names.get(answer.id)
        if name is None:
            batch.notes.append(f"an answer for a cluster that does not exist was dropped: {answer.label}")
        elif name in batch.answers:
            batch.notes.append(f"a second answer for one cluster was dropped: {answer.label}")
        else:
            # without the opaque id, which means nothing outside this prompt
            batch.answers[name] = ClusterAnswer.model_validate(answer.model_dump(exclude={"id"}))
    return usable


def _names(wanted: Iterable[str], given: set[str]) -> dict[str, str]:
    """The ids that were asked about, by those of an answer.

    Bare numbers count only where all are the asked ones, and none where the model counts from 0: its ids are shifted.
    """
    bare = {name.removeprefix(ID_PREFIX): name for name in wanted}
    if bare.keys() == given:
        return bare
    return {} if f"{ID_PREFIX}0" in given else {name: name for name in bare.values()}


def _salvage(data: Any) -> list[IdentifiedAnswer]:
    """The answers of an unfitting whole that fit by themselves."""
    items = data.get("clusters") if isinstance(data, dict) else data
    found = []
    for item in items if isinstance(items, list) else []:
        try:
            found.append(IdentifiedAnswer.model_validate(item))
        except ValidationError:
            continue
    return found
