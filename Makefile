# make quickstart   set everything up and train a small network on real CIFAR-10
# make test         set everything up and run the tests
# make install      only set up .venv for training; ACCELERATOR (cuda, tpu, or empty for the CPU)
#                   chooses jax's devices
# make lint         check style, format and types
# make docs         run a short version of the tour's notebook, build the site in docs/_build

# The first Python from 3.11 on that can create environments; PYTHON=... names another.
PYTHON := $(or $(PYTHON),$(shell for p in python3 python3.12 python3.13 python3.11; do \
  $$p -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && \
  echo $$p && break; done))
# The accelerator to install jax for: cuda, tpu, or nothing for CPU; ACCELERATOR=... sets another.
ACCELERATOR := $(shell bash launch/find_accelerator.sh)
WORKDIR ?= runs/quickstart
RUN := .venv/bin/python

.PHONY: quickstart test install lint docs peers export-env clean-venv
.DELETE_ON_ERROR:

quickstart: .venv/installed
	$(RUN) main.py --config=configs/quickstart.py --workdir=$(WORKDIR)

test: .venv/installed-test
	$(RUN) -m pytest -n 3 --dist=worksteal

install: .venv/installed

lint: .venv/installed-test
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

docs: .venv/installed-docs
	$(RUN) docs/execute.py --quick
	$(RUN) -m sphinx -q -W --keep-going -b html docs docs/_build

.venv/installed: pyproject.toml $(wildcard constraints/*.txt)
	@if [ -z "$(PYTHON)" ]; then echo "error: Python 3.11 or newer with venv is needed; install it (on Ubuntu: apt install python3.11-venv), or name one: make PYTHON=/path/to/python3.12 $(MAKECMDGOALS)"; exit 1; fi
	@echo "Setting up .venv with $$($(PYTHON) --version), jax for $(or $(ACCELERATOR),CPU)"
	@$(PYTHON) -m venv .venv
	$(call install,$(ACCELERATOR))
	@$(RUN) -m cifar_jax.kernels.build
	@touch $@

.venv/installed-test: .venv/installed
	$(call install,test)
	@touch $@

.venv/installed-docs: .venv/installed
	$(call install,docs)
	@touch $@

# Pin the tested versions if constraints/ has a file for this Python.
define install
@pins=constraints/$$($(RUN) -c 'import sys; print("python%d.%d.txt" % sys.version_info[:2])'); \
	test -f $$pins && pins="-c $$pins" || pins=""; \
	$(RUN) -m pip install --quiet --disable-pip-version-check $$pins -e '.$(if $(1),[$(1)])'
endef

# PyTorch and Keras, which the benchmarks compare with, in a separate environment.
peers: .venv-peers/installed

.venv-peers/installed: benchmarks/peers/requirements.txt
	@$(PYTHON) -m venv .venv-peers
	.venv-peers/bin/python -m pip install --quiet --disable-pip-version-check -r $<
	@touch $@

# The converter of networks to ONNX, in a separate environment: jax2onnx needs an older Orbax.
export-env: .venv-export/installed

.venv-export/installed: analysis/onnx_requirements.txt
	@$(PYTHON) -m venv .venv-export
	.venv-export/bin/python -m pip install --quiet --disable-pip-version-check -r $<
	@touch $@

clean-venv:
	rm -rf .venv .venv-peers .venv-export
