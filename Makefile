# Everything a newcomer needs: `make demo` and `make test`. Both install Postgres' server binaries
# by the system's package manager if there are none, then call cargo.

CARGO ?= cargo
PYTHON ?= python3
# What the tests with official SDKs run on; made once, below cargo's target directory.
VENV = target/test-python

.PHONY: help demo serve test chaos bench postgres pgbouncer

help:
	@echo 'make demo    culprit, a demo shop under traffic, and the UI with findings in it'
	@echo 'make test    everything the project checks'
	@echo 'make chaos   a long crash test: KILLS=120, SEED=… to repeat one'
	@echo 'make serve   culprit for your own services (release build)'
	@echo 'make bench   processor time and bytes per span (release build), as JSON'

demo: postgres
	$(CARGO) run --profile demo --bin culprit -- demo

serve: postgres
	$(CARGO) run --release --bin culprit -- serve

bench: postgres
	$(CARGO) run --release --bin culprit -- bench ingest
	$(CARGO) bench -p analyzer

test: postgres pgbouncer $(VENV)/ready
	CULPRIT_TEST_PYTHON="$(CURDIR)/$(VENV)/bin/python" $(CARGO) test --workspace --no-fail-fast

chaos: postgres
	CULPRIT_TEST_KILLS=$(or $(KILLS),120) $(if $(SEED),CULPRIT_TEST_SEED=$(SEED)) \
		$(CARGO) test --workspace --test whole crash -- --nocapture

# Present is what culprit itself finds: on PATH, or where packages put it.
postgres:
	@sh ./collector/install-postgres.sh

# For the test that goes through a pooler.
pgbouncer:
	@sh ./tests/install-pgbouncer.sh

$(VENV)/ready: Makefile
	@mkdir -p target
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --disable-pip-version-check \
		opentelemetry-sdk opentelemetry-exporter-otlp-proto-grpc opentelemetry-exporter-otlp-proto-http
	@touch $@
