"""The gateway's Prometheus metrics, in a registry of its own."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_BUCKETS = (
    *(0.00025, 0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.02, 0.03, 0.05),
    *(0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0),
)


class Metrics:
    """All metrics of one gateway; latencies are in seconds."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "flywheel_requests",
            "Predict requests by model, version and HTTP status.",
            ["model", "version", "code"],
            registry=self.registry,
        )
        self.predictions = Counter(
            "flywheel_predictions",
            "Cases predicted; a batch request holds many.",
            ["model", "version"],
            registry=self.registry,
        )
        self.latency = Histogram(
            "flywheel_latency_seconds",
            "Latency of a predict request: whole, and of its parts features and triton.",
            ["model", "part"],
            buckets=_BUCKETS,
            registry=self.registry,
        )
        self.defaulted = Counter(
            "flywheel_defaulted_features",
            "Features that were missing in the online store and took their default.",
            ["model", "feature"],
            registry=self.registry,
        )
        self.stale = Counter(
            "flywheel_stale_rows",
            "Feature rows that were absent or expired, by what happened: default or refuse.",
            ["model", "view", "answer"],
            registry=self.registry,
        )
        self.triton_up = Gauge(
            "flywheel_triton_up", "1 while Triton serves, 0 otherwise.", registry=self.registry
        )
        self.triton_restarts = Counter(
            "flywheel_triton_restarts", "Restarts of a dead Triton.", registry=self.registry
        )
        self.model_heals = Counter(
            "flywheel_model_heals",
            "Reloads of a model whose probe kept failing.",
            ["model"],
            registry=self.registry,
        )

    def render(self) -> bytes:
        """The metrics in Prometheus's text format."""
        return generate_latest(self.registry)
