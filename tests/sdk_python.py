"""Sends one trace with the official SDK: sdk_python.py grpc|http ENDPOINT; prints the trace id."""

import sys

from opentelemetry import trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import SpanKind, Status, StatusCode

transport, endpoint = sys.argv[1:]
if transport == "grpc":
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter

    exporter = OTLPSpanExporter(endpoint=endpoint, insecure=True)
else:
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    exporter = OTLPSpanExporter(endpoint=endpoint)

provider = TracerProvider(resource=Resource.create({"service.name": "basket"}))
provider.add_span_processor(BatchSpanProcessor(exporter))
tracer = provider.get_tracer("basket.web", "1.2.3")

with tracer.start_as_current_span("GET /basket/{id}", kind=SpanKind.SERVER) as server:
    server.set_attributes(
        {
            "http.request.method": "GET",
            "http.route": "/basket/{id}",
            "items": 3,
            "total": 12.5,
            "gift": True,
            "tags": ["a", "ü"],
        }
    )
    with tracer.start_as_current_span("SELECT", kind=SpanKind.CLIENT) as client:
        client.set_attributes(
            {
                "db.system.name": "postgresql",
                "db.query.text": "SELECT * FROM basket WHERE id = %s",
            }
        )
        client.record_exception(ValueError("no such basket"))
        client.set_status(Status(StatusCode.ERROR, "no such basket"))
    trace_id = trace.format_trace_id(server.get_span_context().trace_id)

provider.shutdown()
print(trace_id)
