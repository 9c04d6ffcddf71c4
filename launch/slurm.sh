#!/bin/bash
# One run on all GPUs of several nodes, under Slurm. Install once, on the login node: uv sync --extra cuda13. Then, from
# the checkout, with a workdir on a file system that all nodes share:
#
#     sbatch --nodes=2 launch/slurm.sh --config=configs/ham10000.py:rg --config.data.manual_dir=DOWNLOAD --workdir=RUN
#
# Options of Slurm (--partition, --account, ...) go before the script, options of rgjax.main after it.
#
#SBATCH --job-name=rgjax
#SBATCH --output=%x-%j.out
#SBATCH --open-mode=append
#SBATCH --time=24:00:00
# One task per GPU: under Slurm JAX gives each process the GPU whose number on the node is SLURM_LOCALID. Do not use
# --gpus-per-task: each task would then see a single GPU, number 0.
#SBATCH --gpus-per-node=8
#SBATCH --ntasks-per-node=8
# Slurm requeues the job after the failure of a node, and this script requeues it when it gets the signal below, 120 s
# before the time limit.
#SBATCH --requeue
#SBATCH --signal=B:USR1@120
set -euo pipefail

# The run resumes from its last checkpoint; config.train.checkpoint_steps sets how often it saves one.
trap 'scontrol requeue "$SLURM_JOB_ID"' USR1

# --no-sync, because all tasks would update the same environment at once. In the background, because bash handles no
# signal during a foreground command.
srun --kill-on-bad-exit=1 uv run --no-sync python -m rgjax.main --distributed "$@" &
wait $!
