exec .venv/bin/opentelemetry-instrument .venv/bin/flask --app blog run --port "$PORT"
