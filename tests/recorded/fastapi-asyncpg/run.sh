exec .venv/bin/opentelemetry-instrument .venv/bin/uvicorn blog:app --port "$PORT" --log-level warning
