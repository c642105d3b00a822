"""A collector: it receives OTLP over HTTP, and decodes it with the protobufs of the protocol."""

import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

REQUESTS = {"/v1/traces": ExportTraceServiceRequest, "/v1/metrics": ExportMetricsServiceRequest}


class Span:
    """A span as it was received."""

    def __init__(self, span):
        self.name, self.kind, self.status = span.name, span.kind, span.status
        self.trace_id, self.id, self.parent = (
            value.hex() for value in (span.trace_id, span.span_id, span.parent_span_id)
        )
        self.state = span.trace_state
        self.start, self.end = span.start_time_unix_nano, span.end_time_unix_nano
        self.attributes = {each.key: value_of(each.value) for each in span.attributes}
        assert not span.events

    @property
    def is_attempt(self):
        return "tokenwire.attempt" in self.attributes


def value_of(value):
    """Return the value of an attribute."""
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [value_of(each) for each in value.array_value.values]
    return getattr(value, kind)


class OtlpReceiver:
    """Receives spans and metrics while its `with` block is active. With `hangs` it never answers."""

    def __init__(self, *, hangs=False):
        self.hangs = hangs
        self.bodies = []
        self.spans = []
        self.points = {}
        """The last data points of each metric, by its name."""
        self.resources = []
        self._released = threading.Event()

    def __enter__(self):
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.received(self.path, body)
                if receiver.hangs:
                    receiver._released.wait(60)
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_):
        self._released.set()
        self._server.shutdown()
        self._server.server_close()

    def environ(self, **variables):
        """Return variables with which a server sends its traces here, at once."""
        return {
            "TOKENWIRE_OTEL__TRACES": "true",
            "OTEL_EXPORTER_OTLP_ENDPOINT": self.url,
            "OTEL_BSP_SCHEDULE_DELAY": "20",
        } | variables

    def received(self, path, body):
        request = REQUESTS[path].FromString(body)
        self.bodies.append(body)
        if path == "/v1/traces":
            for resource in request.resource_spans:
                self.resources.append(resource.resource)
                self.spans += [Span(span) for scope in resource.scope_spans for span in scope.spans]
            return
        for resource in request.resource_metrics:
            for scope in resource.scope_metrics:
                for metric in scope.metrics:
                    self.points[metric.name] = list(metric.histogram.data_points)

    def wait_for(self, count, within_s=10):
        """Return the spans, once there are so many."""
        give_up = time.monotonic() + within_s
        while len(self.spans) < count:
            assert time.monotonic() < give_up, f"{len(self.spans)} of {count} spans came"
            time.sleep(0.01)
        return list(self.spans)
