"""Every span and metric name of kvshelf, and the providers behind them.

Knows nothing of the other packages. Metrics are always served to Prometheus; spans and metrics also go to an
OpenTelemetry collector where an endpoint is configured. The dashboards' queries are tested against this module.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager

from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.metrics import CallbackOptions, Observation
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import MetricReader, PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Span
from prometheus_client import CollectorRegistry, generate_latest

QUESTION_SPAN = "kvshelf.question"
PART_SPAN = "kvshelf.part"
"""One document's part of a question over several."""
READING_SPAN = "kvshelf.reading"

# Attributes of spans and labels of metrics.
DOCUMENT = "kvshelf.document"
ROUTING = "kvshelf.routing"
SCORE = "kvshelf.score"
WORKER = "kvshelf.worker"
TIER = "kvshelf.tier"
OUTCOME = "kvshelf.outcome"
EVIDENCE = "kvshelf.evidence"
"""What a question without a document was matched by: `all`, or its `words` alone."""
TENANT = "kvshelf.tenant"
PROMPT_TOKENS = "gen_ai.usage.input_tokens"
CACHED_TOKENS = "gen_ai.usage.cached_tokens"
COMPLETION_TOKENS = "gen_ai.usage.output_tokens"
FIRST_TOKEN_S = "kvshelf.first_token_s"  # noqa: S105 - a token of text  # nosec B105
STATE = "kvshelf.state"
HOST = "kvshelf.host"
KIND = "kvshelf.kind"
ORIGIN = "kvshelf.origin"
LIMIT = "kvshelf.limit"

FIRST_TOKEN_BUCKETS_S = (0.01, 0.025, 0.05, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 80.0)
SECONDS_BUCKETS_S = (0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)

Gauges = Callable[[], Iterable[tuple[float, dict[str, str]]]]
"""Values with their labels, read when metrics are collected."""


class Telemetry:
    """The instruments, one attribute each. Build one an application; `close` flushes what is not sent yet."""

    def __init__(
        self, *, otlp_endpoint: str | None = None, span_processor: SpanProcessor | None = None, service: str = "kvshelf"
    ) -> None:
        """`otlp_endpoint`: a collector's base URL (OTLP over HTTP). `span_processor`: another consumer of spans."""
        resource = Resource.create({"service.name": service})
        self._registry = CollectorRegistry()
        readers: list[MetricReader] = [PrometheusMetricReader(scope_info_enabled=False, registry=self._registry)]
        self._tracers = TracerProvider(resource=resource)
        if otlp_endpoint is not None:
            base = otlp_endpoint.rstrip("/")
            readers.append(PeriodicExportingMetricReader(OTLPMetricExporter(endpoint=f"{base}/v1/metrics")))
            self._tracers.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=f"{base}/v1/traces")))
        if span_processor is not None:
            self._tracers.add_span_processor(span_processor)
        self._meters = MeterProvider(metric_readers=readers, resource=resource)
        self._tracer = self._tracers.get_tracer("kvshelf")
        meter = self._meters.get_meter("kvshelf")
        self._meter = meter

        self.questions = meter.create_counter("kvshelf.questions", description="Questions, by routing, tier and outcome")
        self.first_token = meter.create_histogram(
            "kvshelf.first_token",
            unit="s",
            description="Time to the first token, by tier",
            explicit_bucket_boundaries_advisory=FIRST_TOKEN_BUCKETS_S,
        )
        self.answer = meter.create_histogram(
            "kvshelf.answer",
            unit="s",
            description="Time to the end of the answer",
            explicit_bucket_boundaries_advisory=SECONDS_BUCKETS_S,
        )
        self.prompt_tokens = meter.create_counter("kvshelf.prompt.tokens", description="Prompt tokens, documents included")
        self.cached_tokens = meter.create_counter("kvshelf.cached.tokens", description="Prompt tokens that were not computed again")
        self.question_tokens = meter.create_counter(
            "kvshelf.question.tokens",
            description="Prompt tokens by origin: recomputed, restored from RAM or disk, reused on the GPU",
        )
        self.completion_tokens = meter.create_counter("kvshelf.completion.tokens", description="Tokens answered")
        self.tier_misbeliefs = meter.create_counter(
            "kvshelf.tier.misbeliefs", description="Questions whose cached tokens contradict the tier that the ledger believed in"
        )
        self.retries = meter.create_counter(
            "kvshelf.retries", description="Questions sent to a second worker before their first token"
        )
        self.queue_wait = meter.create_histogram(
            "kvshelf.queue.wait",
            unit="s",
            description="Time that questions waited for a worker with room, by outcome; those that were sent at once are left out",
            explicit_bucket_boundaries_advisory=SECONDS_BUCKETS_S,
        )
        self.routes = meter.create_counter("kvshelf.routes", description="The classifier's decisions, by outcome and evidence")
        self.second_looks = meter.create_counter(
            "kvshelf.second_looks", description="Doubtful decisions of which the engine was asked, by what came of it"
        )
        self.routing_time = meter.create_histogram(
            "kvshelf.routing",
            unit="s",
            description="Time to find a document",
            explicit_bucket_boundaries_advisory=SECONDS_BUCKETS_S,
        )
        self.readings = meter.create_counter("kvshelf.readings", description="Readings that ended, by outcome")
        self.reading_time = meter.create_histogram(
            "kvshelf.reading",
            unit="s",
            description="Time to read a document",
            explicit_bucket_boundaries_advisory=SECONDS_BUCKETS_S,
        )
        self.read_tokens = meter.create_counter("kvshelf.read.tokens", description="Document tokens read")

        self.limit_refusals = meter.create_counter("kvshelf.limit.refusals", description="What was refused, by limit and tenant")
        self.evicted_bytes = meter.create_counter("kvshelf.evicted", unit="By", description="KV evicted from disk for lack of room")
        self.moves = meter.create_counter("kvshelf.moves", description="Moves between tiers, by kind and outcome")
        self.evicted_ram_bytes = meter.create_counter(
            "kvshelf.evicted.ram", unit="By", description="KV evicted from RAM to keep room"
        )
        self.prefetches = meter.create_counter("kvshelf.prefetches", description="Prefetched documents, by what became of them")
        self.prefetched_bytes = meter.create_counter(
            "kvshelf.prefetched", unit="By", description="KV brought from disk to RAM ahead"
        )
        self.damaged_chunks = meter.create_counter("kvshelf.damaged.chunks", description="Chunks found damaged on disk")
        self.repaired = meter.create_counter("kvshelf.repairs", description="Damaged documents written anew, by outcome")
        self.scrubbed_bytes = meter.create_counter("kvshelf.scrubbed", unit="By", description="Stored KV read to find damage")

    def span(self, name: str, attributes: Mapping[str, str] | None = None) -> AbstractContextManager[Span]:
        """The current span until it is left. What is raised within it is not shown: its words may be a document's."""
        return self._tracer.start_as_current_span(
            name, attributes=attributes, record_exception=False, set_status_on_exception=False
        )

    def observe(self, name: str, description: str, values: Gauges) -> None:
        """A gauge called `name`, whose values are asked for when metrics are collected."""

        def callback(_: CallbackOptions) -> Iterable[Observation]:
            return [Observation(value, labels) for value, labels in values()]

        self._meter.create_observable_gauge(name, callbacks=[callback], description=description)

    def prometheus(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self._registry)

    def close(self) -> None:
        self._tracers.shutdown()
        self._meters.shutdown()


DOCUMENTS_GAUGE = "kvshelf.documents"
WORKERS_GAUGE = "kvshelf.workers.healthy"
RUNNING_GAUGE = "kvshelf.worker.running"
QUEUE_GAUGE = "kvshelf.queue.length"
TIER_BYTES_GAUGE = "kvshelf.tier.size"
FOREIGN_FILES_GAUGE = "kvshelf.foreign.files"
DISK_BUDGET_GAUGE = "kvshelf.disk.budget"
KV_SERVERS_GAUGE = "kvshelf.kv_servers.healthy"
