# Everything a newcomer needs: `make demo` and `make test`. Both install Postgres' server binaries
# by the system's package manager if there are none, then call cargo.

CARGO ?= cargo
PYTHON ?= python3
# What the tests with official SDKs run on; made once, below cargo's target directory.
VENV = target/test-python
NODE = target/test-node
AXE = target/test-axe
# The packages' exact versions are those of two recorded stacks.
DJANGO = tests/recorded/django-psycopg/requirements.txt
EXPRESS = tests/recorded/express-pg/package.json

.PHONY: help demo serve test chaos bench pictures looks postgres pgbouncer node chromium

help:
	@echo 'make demo    culprit, a demo shop under traffic, and the UI with findings in it'
	@echo 'make test    everything the project checks'
	@echo 'make chaos   a long crash test: KILLS=120, SEED=… to repeat one'
	@echo 'make serve   culprit for your own services (release build)'
	@echo 'make pictures   the pages in the README, taken anew (web/pictures)'
	@echo 'make looks   every page in every width and theme, for looking at (target/looks)'
	@echo 'make bench   processor time and bytes per span (release build), as JSON'

demo: postgres
	$(CARGO) run --profile demo --bin culprit -- demo

serve: postgres
	$(CARGO) run --release --bin culprit -- serve

bench: postgres
	$(CARGO) run --release --bin culprit -- bench ingest
	$(CARGO) bench -p analyzer

test: postgres pgbouncer chromium $(VENV)/ready $(NODE)/ready $(AXE)/ready
	CULPRIT_TEST_PYTHON="$(CURDIR)/$(VENV)/bin/python" \
		CULPRIT_TEST_NODE_MODULES="$(CURDIR)/$(NODE)/node_modules" \
		CULPRIT_TEST_AXE="$(CURDIR)/$(AXE)/node_modules/axe-core/axe.min.js" \
		$(CARGO) test --workspace --no-fail-fast

chaos: postgres
	CULPRIT_TEST_KILLS=$(or $(KILLS),120) $(if $(SEED),CULPRIT_TEST_SEED=$(SEED)) \
		$(CARGO) test --workspace --test whole crash -- --nocapture

pictures: postgres chromium
	CULPRIT_TEST_README_PICTURES="$(CURDIR)/web/pictures" \
		$(CARGO) test --workspace --test whole browser::pictures

looks: postgres chromium $(AXE)/ready
	CULPRIT_TEST_PICTURES="$(CURDIR)/target/looks" \
		CULPRIT_TEST_AXE="$(CURDIR)/$(AXE)/node_modules/axe-core/axe.min.js" \
		$(CARGO) test --workspace --test whole browser::every_page

# Present is what culprit itself finds: on PATH, or where packages put it.
postgres:
	@sh ./collector/install-postgres.sh

# For the test that goes through a pooler.
pgbouncer:
	@sh ./tests/install.sh PgBouncer pgbouncer pgbouncer pgbouncer

# For the tests of pages.
chromium:
	@sh ./tests/install.sh Chromium chromium chromium chromium

# For the test that runs an Express project's tests.
node:
	@sh ./tests/install.sh Node.js "nodejs npm" node "node npm"

$(VENV)/ready: Makefile $(DJANGO)
	@mkdir -p target
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --disable-pip-version-check \
		opentelemetry-sdk opentelemetry-exporter-otlp-proto-grpc opentelemetry-exporter-otlp-proto-http \
		pytest -r $(DJANGO)
	@touch $@

$(NODE)/ready: Makefile $(EXPRESS) | node
	@mkdir -p $(NODE)
	cp $(EXPRESS) $(NODE)/
	npm install --prefix $(NODE) --no-audit --no-fund --no-package-lock --silent
	@touch $@

# What checks pages for accessibility; nothing of it goes into the program.
$(AXE)/ready: Makefile | node
	@mkdir -p $(AXE)
	npm install --prefix $(AXE) --no-audit --no-fund --no-package-lock --silent axe-core@4
	@touch $@
