#!/usr/bin/env bash
# Run on a Cloud TPU slice of any size. Every worker runs the same command, and JAX finds the other
# workers from the machine's metadata.
#
#   launch/tpu_pod.sh create                      requests the slice and waits until it is active
#   launch/tpu_pod.sh setup                       installs this checkout on every worker
#   launch/tpu_pod.sh run --config=configs/resnet18.py --workdir=gs://bucket/run
#   launch/tpu_pod.sh stop                        asks the run to save and exit, as Ctrl-C does
#   launch/tpu_pod.sh delete                      deletes the slice
#
# Environment variables: PROJECT and ZONE (required); NAME, TYPE, VERSION and SPOT (optional). After
# a spot slice is preempted, delete and create it again; the same `run` then resumes, because the
# workdir is in a bucket. The service account and the network are the project's defaults.
set -euo pipefail

: "${PROJECT:?set PROJECT to the Google Cloud project}" "${ZONE:?set ZONE, such as us-central2-b}"
NAME=${NAME:-cifar-jax}
TYPE=${TYPE:-v4-16}                      # accelerator type: v4-16 is two hosts of four chips
VERSION=${VERSION:-tpu-ubuntu2204-base}  # runtime version; each TPU generation has its own
SPOT=${SPOT:-}                           # not empty: cheaper, but may be preempted
where=(--project="$PROJECT" --zone="$ZONE")

on_every_worker() {
  gcloud compute tpus tpu-vm ssh "$NAME" "${where[@]}" --worker=all --command="$1"
}

stop_workers() {
  on_every_worker 'cifar-jax/launch/tpu_worker.sh stop'
}

case "${1:-}" in
  create)
    gcloud compute tpus queued-resources create "$NAME" "${where[@]}" --node-id="$NAME" \
      --accelerator-type="$TYPE" --runtime-version="$VERSION" ${SPOT:+--spot}
    until state=$(gcloud compute tpus queued-resources describe "$NAME" "${where[@]}" \
      --format='value(state.state)') && [ "$state" = ACTIVE ]; do
      case "$state" in FAILED | SUSPENDED) echo "$NAME: $state" >&2; exit 1 ;; esac
      echo "$NAME: ${state:-unknown}"
      sleep 30
    done
    ;;
  setup)
    archive=$(mktemp --suffix=.tar.gz)
    trap 'rm -f "$archive"' EXIT
    git -C "$(dirname "$0")/.." archive --format=tar.gz --output="$archive" HEAD
    gcloud compute tpus tpu-vm scp "$archive" "$NAME:cifar-jax.tar.gz" "${where[@]}" --worker=all
    on_every_worker 'mkdir -p cifar-jax && tar -xzf cifar-jax.tar.gz -C cifar-jax &&
      cifar-jax/launch/tpu_worker.sh setup'
    ;;
  run)
    shift
    # Ctrl-C must reach this script alone. If it ended the connection, the workers would not notice
    # and would continue to train.
    (
      trap '' INT
      on_every_worker "cifar-jax/launch/tpu_worker.sh run $(printf '%q ' "$@")"
    ) &
    workers=$!
    interrupted=1
    trap 'interrupted=1; echo "asking the workers to save and exit" >&2; stop_workers || true' \
      INT TERM HUP
    while [ "$interrupted" = 1 ]; do  # a signal ends the wait
      interrupted=0 code=0
      wait "$workers" || code=$?
    done
    exit "$code"
    ;;
  stop)
    stop_workers
    ;;
  delete)
    gcloud compute tpus queued-resources delete "$NAME" "${where[@]}" --force --quiet
    ;;
  *)
    sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "$0" >&2
    exit 2
    ;;
esac
