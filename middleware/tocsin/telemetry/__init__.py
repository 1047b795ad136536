"""OpenTelemetry: exporters for OTLP, and metrics as it has them. Spans are made in `tocsin.sinks.spans`."""
