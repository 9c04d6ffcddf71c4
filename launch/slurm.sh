#!/bin/bash
# One run on all GPUs of several nodes, under Slurm. Once, on the login node: uv sync --extra cuda12. Then, from the
# checkout, with a workdir that all nodes share:
#
#     sbatch --nodes=2 launch/slurm.sh --config=configs/ham10000.py:rg --config.data.manual_dir=DOWNLOAD --workdir=RUN
#
# Options of Slurm (--partition, --account, ...) go before the script, those of rgjax.main after it.
#
#SBATCH --job-name=rgjax
#SBATCH --output=%x-%j.out
#SBATCH --open-mode=append
#SBATCH --time=24:00:00
# As many tasks as GPUs: under Slurm JAX gives each process the one GPU whose number on the node is SLURM_LOCALID.
# Hence not --gpus-per-task, which would show each task its own GPU alone, as number 0.
#SBATCH --gpus-per-node=8
#SBATCH --ntasks-per-node=8
# Back into the queue after the failure of a node and, by the signal that this script alone gets, before time is up.
#SBATCH --requeue
#SBATCH --signal=B:USR1@120
set -euo pipefail

# Nothing need be saved: the run goes on from its last checkpoint, which config.train.checkpoint_steps makes as frequent
# as you like.
trap 'scontrol requeue "$SLURM_JOB_ID"' USR1

# --no-sync: the tasks would all set up the same environment at once. In the background, for bash waits for a command in
# the foreground before it heeds a signal.
srun --kill-on-bad-exit=1 uv run --no-sync python -m rgjax.main --distributed "$@" &
wait $!
