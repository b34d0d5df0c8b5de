"""What all operators share, so that each is only its options and one call of the core."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar

from airflow.sdk import BaseOperator

from airflow_provider_gca.utils.failures import as_task_failure
from airflow_provider_gca.utils.fields import NOTHING, check_literals, given, is_literal, require_text
from airflow_provider_gca.utils.place import uri_key
from airflow_provider_gca.utils.results import note_assets, with_alias
from gca_core.errors import ConfigurationError

if TYPE_CHECKING:
    from airflow.sdk import Context
    from pydantic import BaseModel

MAX_REQUEST_ID = 200
ONE_EACH = "give each its own, with expand_kwargs and a mapping for each task"
# what lineage tells of a run
RUN_FACTS = ("annotator", "model", "seed", "ontology_version", "versions")


class GcaOperator(BaseOperator):
    """Runs one function of the core and hands on its result as JSON.

    Each field of ``config_type``, the core's model of the options, is an argument and a template field of that name;
    one that is None, or a template that renders to nothing, leaves the core's default. Literals are checked when the
    DAG is parsed, the rest when the task runs.

    The task fails without a retry where input or options are wrong, and nothing is written then; what a retry may
    mend, such as a service that is down, leaves the retries to Airflow. A killed task stops where it is.

    Args:
        request_id: names the run in logs and results; None makes it from DAG, task, DAG run and map index.
        gcp_conn_id: connection whose credentials open ``gs://`` URIs; None means the worker's own.
        asset_alias: name of an alias under which the results become asset events, with the metrics as their extra;
            None means none. The events of assets that are named as ``outlets`` get the same extra.
    """

    config_type: ClassVar[type[BaseModel] | None] = None
    # fields with URIs that are read, the field that says where results go, names of results that become assets
    input_fields: ClassVar[tuple[str, ...]] = ("input_uri",)
    output_field: ClassVar[str] = "output_uri"
    asset_names: ClassVar[tuple[str, ...]] = ()
    report_name: ClassVar[str] = "report"
    figure_name: ClassVar[str] = "umap"

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Give ``__init__`` the fields of ``config_type`` as arguments: Airflow asks its signature for mapped tasks."""
        super().__init_subclass__(**kwargs)
        init = cls.__init__
        known: dict[str, inspect.Parameter] = {}
        for base in cls.__mro__[: cls.__mro__.index(GcaOperator) + 1]:
            known |= inspect.signature(base.__init__).parameters  # type: ignore[misc]
        rest = known.pop("kwargs")
        for name, field in (cls.config_type.model_fields if cls.config_type else {}).items():
            default: Any = inspect.Parameter.empty if field.is_required() else None
            known[name] = inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default)

        def __init__(self: GcaOperator, **kwargs: Any) -> None:  # noqa: N807
            init(self, **kwargs)

        __init__.__signature__ = inspect.Signature([*known.values(), rest])  # type: ignore[attr-defined]
        cls.__init__ = __init__  # type: ignore[method-assign]
        cls.template_fields = tuple(name for name in known if name not in {"self", "asset_alias"})

    def __init__(
        self,
        *,
        request_id: str | None = None,
        gcp_conn_id: str | None = None,
        asset_alias: str | None = None,
        **kwargs: Any,
    ) -> None:
        own = {name: kwargs.pop(name, None) for name in self._fields() if name != "request_id"}
        super().__init__(**with_alias(kwargs, asset_alias))
        self.request_id = request_id
        self.gcp_conn_id = gcp_conn_id
        self.asset_alias = asset_alias
        self.report_uri: str | None = None
        self.figure_uri: str | None = None
        self._result: Any = None
        self._running = False
        for name, value in own.items():
            setattr(self, name, value)
        self._check()

    @classmethod
    def partial(cls, **kwargs: Any) -> Any:
        """As Airflow's; refuses one ``output_field`` for all mapped tasks, whose results would replace each other."""
        if is_literal(kwargs.get(cls.output_field, "{{")):
            raise ConfigurationError(
                f"{cls.__name__}: {cls.output_field} is the same for all mapped tasks, which would replace each "
                f"other's results; {ONE_EACH}"
            )
        return super().partial(**kwargs)

    @classmethod
    def _fields(cls) -> list[str]:
        return [*cls.config_type.model_fields] if cls.config_type else []

    def values(self) -> dict[str, Any]:
        """The options that say something."""
        return given({name: getattr(self, name) for name in self._fields()})

    def _check(self) -> None:
        """Refuse what is wrong already when the DAG is parsed."""
        if self.config_type is not None:
            needed = {name: getattr(self, name) for name, f in self.config_type.model_fields.items() if f.is_required()}
            require_text(type(self).__name__, **needed)
            check_literals(type(self).__name__, self.config_type, self.checked_values())

    def checked_values(self) -> dict[str, Any]:
        """The options that are checked when the DAG is parsed."""
        return self.values()

    def work(self, context: Context) -> Any:
        """Call the core; returns a model, or JSON data."""
        raise NotImplementedError

    def execute(self, context: Context) -> Any:
        """Do the work, tell Airflow of the results, and return them as JSON."""
        return self._finish(context, self.work)

    def _finish(self, context: Context, work: Callable[[Context], Any]) -> Any:
        from pydantic_core import to_jsonable_python

        from gca_core.observability import bind_request

        self._running = True
        try:
            with as_task_failure(), credentials_of(self.gcp_conn_id), bind_request(self.request_name(context)):
                task = self.dag.task_dict.get(self.task_id) if self.has_dag() else None  # type: ignore[no-untyped-call]
                if shares(self.output_field, getattr(getattr(task, "expand_input", None), "value", None)):
                    raise ConfigurationError(
                        f"{type(self).__name__}: mapped tasks share {self.output_field}; {ONE_EACH}"
                    )
                result = to_jsonable_python(work(context))
        finally:
            self._running = False
        self._result = result
        uris = self.outputs(result)
        self.report_uri, self.figure_uri = uris.get(self.report_name), uris.get(self.figure_name)
        for kind, uri in (("report", self.report_uri), ("figure", self.figure_uri)):
            if uri and context.get("ti") is not None:
                context["ti"].xcom_push(key=uri_key(kind), value=uri)
        assets = {name: uris[name] for name in self.asset_names if name in uris}
        note_assets(context, self.asset_alias, self.outlets, assets, self.metrics(result))
        return result

    def outputs(self, result: Any) -> dict[str, str]:
        """URIs that a result names."""
        return dict(result["uris"])

    def metrics(self, result: Any) -> dict[str, Any]:
        """What of a result goes with assets and lineage; plain JSON."""
        return {"metrics": result["metrics"]}

    def rows(self, result: Any) -> dict[str, int]:  # noqa: ARG002
        """How many cells or clusters an output holds, by its name."""
        return {}

    def inputs(self) -> list[str]:
        """URIs that are read."""
        return [uri for name in self.input_fields if (uri := self.values().get(name))]

    def request_name(self, context: Context) -> str | None:
        """``request_id``, or a name made of the task's run; None outside of Airflow's runs."""
        if named := given({"id": self.request_id}).get("id"):
            return str(named)
        instance = context.get("ti")
        if instance is None:
            return None
        parts = [instance.dag_id, instance.task_id, instance.run_id]
        if (index := getattr(instance, "map_index", -1)) is not None and index >= 0:
            parts.append(str(index))
        text = re.sub(r"[^A-Za-z0-9._:+@=-]", "-", ".".join(parts)).lstrip("._:+@=-")
        return text[-MAX_REQUEST_ID:].lstrip("._:+@=-") or None

    def on_kill(self) -> None:
        """End the work where it is: what is half written goes, and the results of before stay."""
        if self._running:
            raise SystemExit("the task was killed; the results of before, if any, are as they were")

    def get_openlineage_facets_on_start(self) -> Any:
        """What will be read."""
        from airflow_provider_gca.utils.results import lineage

        return lineage(self.inputs(), {}, rows={}, metrics={}, run={})

    def get_openlineage_facets_on_complete(self, task_instance: Any) -> Any:  # noqa: ARG002
        """What was read and written, and the metrics; after a failure, what was read."""
        if self._result is None:
            return self.get_openlineage_facets_on_start()
        from airflow_provider_gca.utils.results import lineage

        result = self._result
        run = {name: result[name] for name in RUN_FACTS if name in result}
        return lineage(
            self.inputs(), self.outputs(result), rows=self.rows(result), metrics=self.metrics(result), run=run
        )


def shares(name: str, mapped_over: Any) -> bool:
    """Whether two tasks of what a DAG's author mapped over have one value of an argument.

    Of several lists, ``expand`` makes a task for each combination.
    """
    crossed = False
    if isinstance(mapped_over, Mapping):
        lists = {key: values for key, values in mapped_over.items() if isinstance(values, list | tuple)}
        found = list(lists.pop(name, ()))
        crossed = bool(found) and any(len(values) > 1 for values in lists.values())
    else:
        entries = mapped_over if isinstance(mapped_over, list | tuple) else ()
        found = [entry[name] for entry in entries if isinstance(entry, Mapping) and name in entry]
    return crossed or len(set(map(str, found))) < len(found)


@contextmanager
def credentials_of(gcp_conn_id: str | None) -> Iterator[None]:
    """Open ``gs://`` URIs with the credentials of an Airflow connection while the block lasts.

    None, or what a template makes of it, leaves it to the worker's own (application default credentials).

    Raises:
        ConfigurationError: the Google provider is not installed.
    """
    if gcp_conn_id is None or gcp_conn_id in NOTHING:
        yield
        return
    from airflow_provider_gca.hooks.batch import google_hook
    from gca_core.io import bucket_options

    with bucket_options({"token": google_hook(gcp_conn_id).get_credentials()}):
        yield
