"""From models' words to labels: resolved on the Cell Ontology and judged by the marker evidence."""

import re
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from gca_core.annotation.labels.offline import annotate_cluster, judge_label
from gca_core.annotation.llm.annotator import Setting, ask_model
from gca_core.annotation.llm.answer_cache import AnswerCache, cache_folder
from gca_core.annotation.llm.consensus import Consensus, Vote, find_consensus
from gca_core.annotation.llm.models import ClusterAnswer, LlmOptions, ModelOutcome
from gca_core.annotation.models import (
    UNKNOWN,
    Annotation,
    ClusterMarkers,
    Confidence,
    Evidence,
    FlagReason,
    ModelStats,
    Status,
)
from gca_core.annotation.scoring.marker_model import MarkerModel, Weighed
from gca_core.annotation.scoring.parameters import MIN_OVERLAP
from gca_core.errors import ConfigurationError
from gca_core.knowledge.bundled.ontology import CellOntology
from gca_core.llm.chat import ChatClient
from gca_core.llm.meter import Meter
from gca_core.llm.models import ChatOptions, LlmConfig, Usage, parse_model

ModelInput = str | LlmConfig | Sequence[str | LlmConfig]

_RANKS = (Confidence.LOW, Confidence.MEDIUM, Confidence.HIGH)
_PARENTHESES = re.compile(r"\s*\([^)]*\)")
_ABSTAINED = re.compile(
    r"(unknown|unclear|unassigned|undetermined|ambiguous|novel|none|n/?a|not? (known|sure))\b.*", re.IGNORECASE
)
_N_NAMES_TRIED = 10


@dataclass(frozen=True)
class Word:
    """A model's label with what the ontology makes of it."""

    label: str
    term: str | None
    abstained: bool
    flags: tuple[FlagReason, ...] = ()
    caveats: tuple[str, ...] = ()


class LlmAnnotator:
    """Labels clusters with one model, or with several that have to agree.

    The budget spans everything that one annotator labels; the statistics of a data set are its own.

    Args:
        models: ``provider:model`` or a configuration; a sequence of them asks for consensus.
        options: how they are asked.
        make_client: makes the client of a model; None means :class:`ChatClient` itself.

    Raises:
        ConfigurationError: no model, one named twice, or one that can't be called; nothing was sent.
    """

    def __init__(
        self,
        models: ModelInput,
        options: LlmOptions | None = None,
        *,
        make_client: Callable[[LlmConfig, ChatOptions, Meter], ChatClient] | None = None,
    ) -> None:
        self.options = options or LlmOptions()
        given = [models] if isinstance(models, (str, LlmConfig)) else list(models)
        configs = [parse_model(each) if isinstance(each, str) else each for each in given]
        twice = [name for name, n in Counter(c.identity for c in configs).items() if n > 1]
        if not configs or twice:
            raise ConfigurationError(
                f"the model {twice[0]} is named twice" if twice else "no model is named; name one as provider:model"
            )
        self._meter = Meter(self.options.budget, self.options.prices)
        self._cache = AnswerCache(cache_folder(self.options.cache_dir)) if self.options.use_cache else None
        make = make_client or (lambda config, chat, meter: ChatClient(config, chat, meter=meter))
        self.clients = tuple(make(config, self.options.chat, self._meter) for config in configs)

    @property
    def name(self) -> str:
        """The models, as results record them."""
        return " + ".join(client.config.name for client in self.clients)

    def annotate(
        self,
        clusters: Sequence[ClusterMarkers],
        weighed: Weighed,
        model: MarkerModel,
        ontology: CellOntology,
        *,
        species: str,
        tissue: str | None,
        marker_database: str,
        min_overlap: int = MIN_OVERLAP,
    ) -> tuple[list[Annotation], ModelStats]:
        """Label clusters; those without an answer are labelled offline and marked.

        Args:
            clusters: n clusters.
            weighed: their evidence, over the genes of ``model``.
            model: the marker database over the measured genes, which judges what the models say.
            marker_database: its hash.
        """
        started, before = time.perf_counter(), self._meter.usage
        setting = Setting(species, tissue, marker_database)
        outcomes = [ask_model(clusters, c, setting, self.options, self._cache) for c in self.clients]
        judge = _Judge(model, ontology, min_overlap, weighed)
        labelled = [
            judge.label(i, cluster, [(o.model, o.answers[i], o.failures[i]) for o in outcomes])
            for i, cluster in enumerate(clusters)
        ]
        spent, seconds = self._meter.usage.since(before), time.perf_counter() - started
        return labelled, _stats(outcomes, labelled, setting, usage=spent, seconds=seconds)


def _stats(
    outcomes: Sequence[ModelOutcome],
    labelled: Sequence[Annotation],
    setting: Setting,
    *,
    usage: Usage,
    seconds: float,
) -> ModelStats:
    return ModelStats(
        models=tuple(o.model for o in outcomes),
        prompt_version=setting.prompts.version,
        cache_hits=sum(o.cached for o in outcomes),
        llm_batches=sum(o.batches for o in outcomes),
        fallbacks=sum(FlagReason.OFFLINE_FALLBACK in a.flag_reasons for a in labelled),
        disagreements=sum(FlagReason.MODEL_DISAGREEMENT in a.flag_reasons for a in labelled),
        usage=usage,
        seconds=round(seconds, 3),
        notes=tuple(note for o in outcomes for note in o.notes),
    )


def as_annotator(model: ModelInput | LlmAnnotator | None, options: LlmOptions | None) -> LlmAnnotator | None:
    """The annotator for what a caller named; None stays None.

    Raises:
        ConfigurationError: as :class:`LlmAnnotator`.
    """
    return model if model is None or isinstance(model, LlmAnnotator) else LlmAnnotator(model, options)


@dataclass(frozen=True)
class _Judge:
    """Judges all clusters by their evidence."""

    model: MarkerModel
    ontology: CellOntology
    min_overlap: int
    weighed: Weighed

    def label(
        self,
        i: int,
        cluster: ClusterMarkers,
        said: Sequence[tuple[str, ClusterAnswer | None, str | None]],
    ) -> Annotation:
        """The label of one cluster from what each model said about it, or why one said nothing."""
        given = [(name, answer) for name, answer, _ in said if answer is not None]
        if not given:
            return _fallback(self._offline(i, cluster), "; ".join(dict.fromkeys(why for _, _, why in said if why)))
        words = [read_word(answer, self.ontology) for _, answer in given]
        if len(said) == 1:
            return self._one(i, cluster, given[0][1], words[0])
        return self._several(i, cluster, given, words, n_asked=len(said))

    def _offline(self, i: int, cluster: ClusterMarkers) -> Annotation:
        """The label by the evidence alone; only where it is asked for, since that is much of what judging takes."""
        return annotate_cluster(cluster, i, self.weighed, self.model, self.ontology, min_overlap=self.min_overlap)

    def _one(self, i: int, cluster: ClusterMarkers, answer: ClusterAnswer, word: Word) -> Annotation:
        judged = self._judged(i, cluster, word)
        unknown = judged.ontology_id is None
        flags = tuple(dict.fromkeys((*judged.flag_reasons, *word.flags)))
        sure = Confidence.LOW if word.flags else answer.confidence
        said = f"{answer.rationale.rstrip('.')}. " if answer.rationale else ""
        considered = "; ".join(a.label for a in answer.alternatives)
        return judged.model_copy(
            update={
                "confidence": min(judged.confidence, sure, key=_RANKS.index),
                "status": Status.FLAGGED if flags else Status.SUPPORTED,
                "flag_reasons": flags,
                "rationale": f"{said}evidence: {judged.rationale}",
                "proposed_label": _nearest(self._offline(i, cluster))
                if word.abstained
                else (word.label if unknown else None),
                "caveats": (
                    *word.caveats,
                    *judged.caveats,
                    *_invented_genes(answer, cluster),
                    *answer.caveats,
                    *((f"the model also considered {considered}",) if considered else ()),
                ),
                "annotator": "llm",
            }
        )

    def _judged(self, i: int, cluster: ClusterMarkers, word: Word) -> Annotation:
        if word.term is None:
            update = {"primary_label": UNKNOWN, "ontology_id": None, "confidence": Confidence.LOW, "flag_reasons": ()}
            return self._offline(i, cluster).model_copy(update=update)
        judged = judge_label(
            cluster,
            word.term,
            i,
            self.weighed,
            self.model,
            self.ontology,
            min_overlap=self.min_overlap,
        )
        if judged is not None:
            return judged
        label, offline = self.ontology.label(word.term), self._offline(i, cluster)
        return offline.model_copy(
            update={
                "primary_label": label,
                "ontology_id": word.term,
                "confidence": Confidence.LOW,
                "flag_reasons": (FlagReason.LABEL_NOT_IN_KB,),
                "rationale": f"the marker database has nothing on {label}; by it the cluster is: {offline.rationale}",
                "caveats": (),
                "evidence": Evidence(),
            }
        )

    def _several(
        self,
        i: int,
        cluster: ClusterMarkers,
        given: Sequence[tuple[str, ClusterAnswer]],
        words: Sequence[Word],
        *,
        n_asked: int,
    ) -> Annotation:
        votes = [Vote(name, word.label, word.term) for (name, _), word in zip(given, words, strict=True)]
        found = find_consensus(votes, self.ontology, lambda term: self._score(term, i))
        answer, word = self._speaker(found, given, words)
        result = self._one(i, cluster, answer, word)
        said = "; ".join(f"{vote.model}: {vote.label}" for vote in votes)
        silent = f"; {n_asked - len(votes)} of {n_asked} models gave no answer" if len(votes) < n_asked else ""
        caveats = (f"{found.support} of {len(votes)} models agree ({said}){silent}", *result.caveats)
        if found.agreed:
            return result.model_copy(update={"caveats": caveats})
        return result.model_copy(
            update={
                "caveats": caveats,
                "confidence": Confidence.LOW,
                "status": Status.FLAGGED,
                "flag_reasons": (*result.flag_reasons, FlagReason.MODEL_DISAGREEMENT),
            }
        )

    def _speaker(
        self, found: Consensus, given: Sequence[tuple[str, ClusterAnswer]], words: Sequence[Word]
    ) -> tuple[ClusterAnswer, Word]:
        """The answer that stands for the consensus: of the first model that supports it, as unsure as any of these."""
        if found.term is None:
            return given[0][1], words[0]
        backing = [
            (answer, word)
            for (_, answer), word in zip(given, words, strict=True)
            if word.term is not None and self.ontology.is_a(word.term, found.term)
        ]
        answer, word = min(backing, key=lambda pair: pair[1].term != found.term)
        least = min((a.confidence for a, _ in backing), key=_RANKS.index)
        if word.term != found.term:
            word = Word(self.ontology.label(found.term), found.term, abstained=False)
        return answer.model_copy(update={"confidence": least}), word

    def _score(self, term: str, i: int) -> float:
        near = [j for j, t in enumerate(self.model.types) if self.ontology.is_a(term, t.ontology_id)]
        return float(self.weighed.expected[i, near].max(initial=0.0))


def read_word(answer: ClusterAnswer, ontology: CellOntology) -> Word:
    """What the ontology makes of a model's label and id; the label counts, since models make up ids.

    An id is believed only where the label is no name of the ontology and the id's term is spelled much like it.
    """
    label = answer.label
    if _ABSTAINED.fullmatch(label):
        return Word(label, None, abstained=True, flags=(FlagReason.MODEL_ABSTAINED,))
    by_label = ontology.resolve(label) or ontology.resolve(_PARENTHESES.sub("", label))
    by_id = ontology.resolve(answer.ontology_id) if answer.ontology_id else None
    if by_label is None:
        close = ontology.suggest(label, _N_NAMES_TRIED)
        if by_id is not None and ontology.label(by_id) in close:
            return Word(label, by_id, abstained=False, caveats=(f"the model wrote {label}",))
        like = f"; close: {', '.join(close[:3])}" if close else ""
        caveat = f"the model's label {label} is no name of the Cell Ontology{like}"
        return Word(label, None, abstained=False, flags=(FlagReason.MISSING_ONTOLOGY_ID,), caveats=(caveat,))
    if by_id is None or ontology.is_a(by_id, by_label) or ontology.is_a(by_label, by_id):
        return Word(label, by_label, abstained=False)
    caveat = f"the model wrote {label} and the id of {ontology.label(by_id)}; the label counts"
    return Word(label, by_label, abstained=False, flags=(FlagReason.ONTOLOGY_MISMATCH,), caveats=(caveat,))


def _invented_genes(answer: ClusterAnswer, cluster: ClusterMarkers) -> tuple[str, ...]:
    known = {g.gene.casefold() for g in cluster.genes}
    invented = [gene for gene in answer.markers if gene.casefold() not in known]
    return (f"the model named genes that the cluster's ranking lacks: {', '.join(invented)}",) if invented else ()


def _fallback(offline: Annotation, why: str) -> Annotation:
    """The offline label, marked as such."""
    return offline.model_copy(
        update={
            "status": Status.FLAGGED,
            "flag_reasons": (*offline.flag_reasons, FlagReason.OFFLINE_FALLBACK),
            "caveats": (f"labelled offline, by marker evidence alone: {why}", *offline.caveats),
        }
    )


def _nearest(annotation: Annotation) -> str | None:
    """The label, or the one behind ``Unknown or Novel``."""
    return annotation.proposed_label or (None if annotation.ontology_id is None else annotation.primary_label)
