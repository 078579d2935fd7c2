# An image with this checkout and the tested versions of its dependencies, as the Makefile installs
# them:
#
#   docker build --tag cifar-jax .                               for NVIDIA GPUs
#   docker build --tag cifar-jax --build-arg ACCELERATOR=tpu .   for TPUs; ACCELERATOR= for CPUs
#   docker run --gpus=all cifar-jax --config=configs/quickstart.py --workdir=/tmp/run
#
# compose.yaml starts a training and the live page.
FROM python:3.12-slim-bookworm

ARG ACCELERATOR=cuda

# g++ compiles the CPU kernels.
# hadolint ignore=DL3008
RUN apt-get update \
  && apt-get install --yes --no-install-recommends g++ make \
  && rm -rf /var/lib/apt/lists/* \
  && useradd --create-home --uid 1000 app \
  && install --directory --owner=1000 /app /data /runs
USER 1000
WORKDIR /app

# What the installation needs comes first, so that an edit elsewhere keeps the installed layer.
COPY --chown=1000 Makefile pyproject.toml README.md LICENSE ./
COPY --chown=1000 constraints constraints
COPY --chown=1000 launch/find_accelerator.sh launch/find_accelerator.sh
COPY --chown=1000 cifar_jax cifar_jax
# gcsfs lets workdirs be gs:// paths; this version suits the pinned fsspec. The extras are for sweeps
# and the live page.
RUN make .venv/installed ACCELERATOR="${ACCELERATOR}" \
  && .venv/bin/python -m pip install --no-cache-dir -c constraints/python3.12.txt \
    gcsfs==2026.10.0 -e '.[sweep,serve]' \
  && rm -rf ~/.cache/pip
ENV PATH=/app/.venv/bin:$PATH

COPY --chown=1000 . .
ENTRYPOINT ["python", "main.py"]
CMD ["--help"]
