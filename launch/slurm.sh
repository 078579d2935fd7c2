#!/usr/bin/env bash
# A run on SLURM, one process for each GPU, which JAX finds from SLURM's variables.
#
#   sbatch launch/slurm.sh --config=configs/resnet18.py --workdir=/shared/run
#
# The workdir is on storage that all nodes share. Set nodes and GPUs here or on sbatch's command
# line; --ntasks-per-node must be the number of GPUs of a node, and every task must see all of them
# (no --gpus-per-task), for each takes the one of its local number.
#SBATCH --job-name=cifar-jax
#SBATCH --nodes=2
#SBATCH --gpus-per-node=4
#SBATCH --ntasks-per-node=4
#SBATCH --cpus-per-task=8
#SBATCH --time=04:00:00
#SBATCH --output=%x-%j.log
#SBATCH --open-mode=append
# Preempted or short of time, the job is put back into the queue and resumes. SIGTERM comes to the
# tasks two minutes before the time is over; they save at the end of the epoch.
#SBATCH --requeue
#SBATCH --signal=TERM@120
set -euo pipefail

cd "${SLURM_SUBMIT_DIR:-.}"
trap : TERM  # the tasks answer it; this script waits for them
code=0
# One process that fails ends the others, which have a minute to say why.
srun --kill-on-bad-exit=0 --wait=60 .venv/bin/python main.py "$@" || code=$?
# 143 is 128 + SIGTERM: saved, and not done. SLURM requeues by itself what it preempts.
if [ "$code" -eq 143 ]; then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
