#!/usr/bin/env bash
# Run on SLURM with one process for each GPU. JAX finds the processes through SLURM's variables.
#
#   sbatch launch/slurm.sh --config=configs/resnet18.py --workdir=/shared/run
#
# A sweep with eight workers, each with a GPU (docs/sweeps.md):
#
#   sbatch --array=0-7 --nodes=1 --gpus-per-node=1 --ntasks-per-node=1 launch/slurm.sh \
#     --mode=sweep --sweep='optimizer.learning_rate=0.1,0.2' --config=… --workdir=/shared/sweep
#
# The workdir must be on storage that all nodes share. Set nodes and GPUs here or on sbatch's
# command line. --ntasks-per-node must be the number of GPUs of a node. Every task must see all GPUs
# of its node (no --gpus-per-task), because each takes the GPU numbered by its local task ID.
#SBATCH --job-name=cifar-jax
#SBATCH --nodes=2
#SBATCH --gpus-per-node=4
#SBATCH --ntasks-per-node=4
#SBATCH --cpus-per-task=8
#SBATCH --time=04:00:00
#SBATCH --output=%x-%j.log
#SBATCH --open-mode=append
# SLURM sends SIGUSR1 to the tasks two minutes before the time limit. The tasks save and exit with
# 138 (128 + SIGUSR1); the job is requeued and resumes. `scancel` sends SIGTERM: the tasks save and
# the job ends. A preempted job is requeued by SLURM itself. A save must finish between SIGTERM and
# SIGKILL (after KillWait, by default 30 s, or the partition's GraceTime).
#SBATCH --requeue
#SBATCH --signal=USR1@120
set -euo pipefail

cd "${SLURM_SUBMIT_DIR:-.}"
trap : TERM USR1  # the tasks handle these signals; this script waits for them
code=0
# When one process fails, the others have a minute to report the failure and exit. srun does not
# inherit --cpus-per-task from sbatch (since SLURM 22.05).
srun --kill-on-bad-exit=0 --wait=60 --cpus-per-task="${SLURM_CPUS_PER_TASK:-1}" \
  .venv/bin/python main.py "$@" || code=$?
if [ "$code" -eq 138 ]; then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
