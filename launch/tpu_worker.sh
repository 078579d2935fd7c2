#!/usr/bin/env bash
# The commands that launch/tpu_pod.sh runs on each worker: setup, run, stop.
set -euo pipefail
cd "$(dirname "$0")/.."

has_python() {  # whether some Python is recent enough and can create environments
  local name
  for name in python3 python3.13 python3.12 python3.11; do
    "$name" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null &&
      return
  done
  return 1
}

is_running() {
  [ -e run.pid ] && grep -qs main.py "/proc/$(cat run.pid)/cmdline"
}

case "${1:-}" in
  setup)
    # The image has Ubuntu 22.04 with Python 3.10, without venv. After the first start, Ubuntu
    # updates itself and holds apt's lock.
    if ! has_python || ! command -v make >/dev/null; then
      apt=(sudo DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=600)
      "${apt[@]}" update
      "${apt[@]}" install make python3.11-venv
    fi
    make .venv/installed ACCELERATOR=tpu
    .venv/bin/python -m pip install --quiet gcsfs # lets workdirs be gs:// paths
    ;;
  run)
    shift
    if is_running; then
      echo "error: a run is in progress on $(hostname); launch/tpu_pod.sh stop ends it" >&2
      exit 1
    fi
    echo $$ >run.pid
    exec .venv/bin/python main.py "$@"
    ;;
  stop)
    if is_running; then
      kill -TERM "$(cat run.pid)"
    fi
    ;;
  *)
    echo "error: launch/tpu_worker.sh takes setup, run or stop" >&2
    exit 2
    ;;
esac
