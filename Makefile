# The entry point; `make help` lists the targets. Debian packages are listed in tools/setup.sh, packages from PyPI and
# crates.io in requirements-dev.txt and Cargo.lock (`make lock`).

PYTHON ?= python3
LISTEN ?= 127.0.0.1:5001
BIN := .venv/bin
PIP_INSTALL := pip install --quiet --disable-pip-version-check --require-hashes
export VIRTUAL_ENV := $(CURDIR)/.venv
# haproxy and ip are in directories that only root's PATH contains.
export PATH := $(PATH):/usr/sbin:/sbin

# Compilers need space for temporary files; if /tmp has none, /var/tmp will do.
export TMPDIR := $(or $(shell for place in "$${TMPDIR:-/tmp}" /var/tmp; do \
	probe=$$(mktemp -p "$$place" 2>/dev/null) || continue; \
	if echo room 2>/dev/null >"$$probe"; then rm "$$probe" && echo "$$place" && break; else rm "$$probe"; fi; done),/tmp)

MACHINE := $(shell uname -m)
HERE := $(MACHINE)-unknown-linux-gnu
TARGETS := x86_64-unknown-linux-gnu aarch64-unknown-linux-gnu x86_64-unknown-linux-musl
COMMITTED := $(or $(SOURCE_DATE_EPOCH),$(shell git log -1 --format=%ct 2>/dev/null || date +%s))
# zig links for the glibc of 2012, so the wheel runs wherever there is that, or newer; or for musl, Alpine's C library.
WHEEL = BUSYWEIGHT_EBPF=require SOURCE_DATE_EPOCH=$(COMMITTED) tools/cross.sh $(1) maturin build --release --locked \
	--target $(1) --zig --compatibility $(if $(findstring musl,$(1)),musllinux_1_2,manylinux2014) --out dist

# What the extension and the installed metadata are made of; Python sources are used in place.
SOURCES := Cargo.toml Cargo.lock pyproject.toml README.md $(shell find rust -type f)
# benches/scan/__main__.py is run by `make bench-scan`.
BENCHES := $(patsubst benches/%/__main__.py,bench-%,$(wildcard benches/*/__main__.py))

.NOTPARALLEL:
.PHONY: help run demo build test test-parts lint bench $(BENCHES) soak soak-faults soak-calls soak-lives dist test-dist test-first-hour test-matrix lock clean

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 24

run: build ## the agent on this machine, on 127.0.0.1:5001; installs what it needs
	@exec $(BIN)/python -m tools.run $(LISTEN)

demo: build ## simulated workers, an agent, and HAProxy (if installed) whose weights follow
	@exec $(BIN)/python -m tools.demo

build: $(BIN)/busyweight ## the command with all extras: .venv/bin/busyweight

test: test-parts build $(BIN)/.bench lint ## lint, then every test, HAProxy and Sidekiq included; installs what it needs
	cargo test --locked
	$(BIN)/pytest --numprocesses=auto --maxprocesses=4 --dist=loadfile

lint: $(BIN)/.installed $(BIN)/.lint ## ruff, mypy, rustfmt, clippy, and the workflows
	@tools/setup.sh lint
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	cargo fmt --check
	cargo clippy --locked --all-targets -- -D warnings
	$(BIN)/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
	$(BIN)/zizmor --offline --no-progress --strict-collection .github/workflows

bench: test-parts build $(BIN)/.bench ## every bench in short; one in full: bench-scan, -polls, -now, -fleet, -real
	@failed=; for bench in $(BENCHES:bench-%=%); do \
		echo "$(BIN)/python -m benches.$$bench --small"; \
		$(BIN)/python -m benches.$$bench --small || failed="$$failed $$bench"; \
	done; [ -z "$$failed" ] || { echo "make bench: could not run:$$failed" >&2; exit 1; }

$(BENCHES): bench-%: test-parts build $(BIN)/.bench
	$(BIN)/python -m benches.$*

# CI=true makes a missing real part a failure, as in .ci/run. The parts may be run apart.
SOAKED := $(BIN)/pytest --timeout=1800
SOAK := CI=true BUSYWEIGHT_SOAK=1 timeout --foreground --signal=INT --kill-after=1m
LONG_PARTS := tests/faults/test_injection.py tests/faults/test_last_words.py

soak: soak-faults soak-calls soak-lives ## the long tests, two hours in all; installs what they need

soak-faults: build
	@tools/setup.sh soak
	$(SOAK) 55m $(SOAKED) $(LONG_PARTS:%=--ignore=%) tests/faults

soak-calls: build ## each system call of the agent's life fails or hangs: half an hour
	@tools/setup.sh soak
	$(SOAK) 45m $(SOAKED) -rP tests/faults/test_injection.py

soak-lives: build ## 2,000 sequences of starts, stops, crashes, reloads, orders and faults: twenty minutes
	@tools/setup.sh soak
	$(SOAK) 150m $(SOAKED) --numprocesses=4 tests/faults/test_last_words.py

# This machine's wheel is made from the source that is packed beside it, and the packages are made from that wheel.
dist: $(BIN)/.dist ## wheels (x86-64, aarch64, Alpine), the source, a Debian package and an RPM, in dist/
	@tools/setup.sh dist
	rm -f dist/busyweight*
	$(call WHEEL,$(HERE)) --sdist
	$(foreach target,$(filter-out $(HERE),$(TARGETS)),$(call WHEEL,$(target)) &&) true
	$(BIN)/python -m tools.sbom dist/*.whl
	tools/deb.sh dist/*-manylinux*_$(MACHINE).whl dist
	tools/rpm.sh dist/*-manylinux*_$(MACHINE).whl dist

test-dist: build dist ## installs the packages in fresh Debian systems; needs root
	@tools/setup.sh test-dist
	$(BIN)/pytest -m dist tests/dist

test-first-hour: build ## every test on bare Debian systems and on an untidy one; needs root; over an hour
	@tools/setup.sh test-dist
	$(BIN)/pytest -m first_hour tests/dist

# In a pid namespace of its own no Sidekiq but the tests' own is seen, and whatever they start ends with them. The
# shell is its init, which reaps.
test-matrix: build dist ## everything in Debian 12, 13 and sid; needs root; writes docs/support.md
	@[ "$$(id -u)" = 0 ] || { echo "make test-matrix: needs root, to make Debians and boot them" >&2; exit 1; }
	@tools/setup.sh test-matrix
	BUSYWEIGHT_SUPPORT=docs/support.md unshare --fork --pid --mount-proc --kill-child \
		sh -c '$(BIN)/pytest -m matrix tests/matrix; exit $$?'

lock: $(BIN)/.installed ## update the pins to the newest versions that pyproject.toml and Cargo.toml allow
	cargo update
	$(BIN)/pip install --quiet uv
	$(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes \
		--all-extras --group dev --custom-compile-command "make lock" \
		--output-file requirements-dev.txt pyproject.toml
	$(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes \
		--group lint --constraint requirements-dev.txt --custom-compile-command "make lock" \
		--output-file requirements-lint.txt
	$(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes \
		--group bench --constraint requirements-dev.txt --custom-compile-command "make lock" \
		--output-file requirements-bench.txt
	$(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes \
		--group dist --constraint requirements-dev.txt --custom-compile-command "make lock" \
		--output-file requirements-dist.txt

clean: ## remove everything that was built here
	rm -rf .venv target dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .benchmarks
	rm -f python/agent/*.so
	find . -name __pycache__ -prune -exec rm -rf {} +

test-parts:
	@tools/setup.sh test

# Not in the words of pip and cargo alone: a newcomer is told what to do (tools/attempt.sh).
# Hashes, not the age of pip, decide what is installed: Debian's own pip will do.
$(BIN)/.installed: requirements-dev.txt tools/setup.sh
	@tools/setup.sh build
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=...")'
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { echo "$(PYTHON) lacks venv: apt-get install python3-venv" >&2; exit 1; }
	@$(BIN)/pip --version >/dev/null 2>&1 || \
		tools/attempt.sh -q "the virtual environment" $(PYTHON) -m venv --clear --without-pip .venv
	@test -x $(BIN)/pip || tools/attempt.sh -q "the virtual environment" $(BIN)/python -m ensurepip --default-pip
	@tools/attempt.sh -q "Python's packages" $(BIN)/$(PIP_INSTALL) -r requirements-dev.txt
	@touch $@

$(BIN)/.lint $(BIN)/.bench $(BIN)/.dist: $(BIN)/.%: requirements-%.txt $(BIN)/.installed
	@tools/attempt.sh -q "Python's packages" $(BIN)/$(PIP_INSTALL) -r $<
	@touch $@

$(BIN)/busyweight: $(BIN)/.installed $(SOURCES)
	@PIP_QUIET=1 tools/attempt.sh "the extension" $(BIN)/maturin develop --release --locked
	@touch $@
