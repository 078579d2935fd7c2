#!/usr/bin/env bash
# Run on SLURM with one process for each GPU. JAX finds the processes from SLURM's variables.
#
#   sbatch launch/slurm.sh --config=configs/resnet18.py --workdir=/shared/run
#
# The workdir must be on storage that all nodes share. Set nodes and GPUs here or on sbatch's command
# line. --ntasks-per-node must be the number of GPUs of a node. Every task must see all GPUs of its
# node (no --gpus-per-task), because each task takes the GPU of its local number.
#SBATCH --job-name=cifar-jax
#SBATCH --nodes=2
#SBATCH --gpus-per-node=4
#SBATCH --ntasks-per-node=4
#SBATCH --cpus-per-task=8
#SBATCH --time=04:00:00
#SBATCH --output=%x-%j.log
#SBATCH --open-mode=append
# A job that is preempted or runs out of time is requeued, and then resumes. SLURM sends SIGTERM to
# the tasks two minutes before the time limit; the tasks save at the end of the epoch and exit.
#SBATCH --requeue
#SBATCH --signal=TERM@120
set -euo pipefail

cd "${SLURM_SUBMIT_DIR:-.}"
trap : TERM  # the tasks handle SIGTERM; this script waits for them
code=0
# When one process fails, the others have a minute to report the failure and exit.
srun --kill-on-bad-exit=0 --wait=60 .venv/bin/python main.py "$@" || code=$?
# 143 is 128 + SIGTERM: the run is saved, but unfinished. SLURM itself requeues preempted jobs.
if [ "$code" -eq 143 ]; then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
