#!/usr/bin/env bash
# One worker of deploy/slurm/train.sbatch, started by srun on every host: sets TF_CONFIG, then trains.
set -euo pipefail

# A port that two jobs on one host are unlikely to share.
port="${WORKER_PORT:-$((20000 + SLURM_JOB_ID % 10000))}"
nodes="${SLURM_STEP_NODELIST:-$SLURM_JOB_NODELIST}"
mapfile -t hosts < <(scontrol show hostnames "$nodes")
if ((${#hosts[@]} != SLURM_NTASKS)); then
    echo "One task a host is wanted. Received: $SLURM_NTASKS tasks on ${#hosts[@]} hosts ($nodes)." >&2
    exit 2
fi

workers=""
for host in "${hosts[@]}"; do
    workers+="${workers:+, }\"$host:$port\""
done
export TF_CONFIG="{\"cluster\": {\"worker\": [$workers]}, \"task\": {\"type\": \"worker\", \"index\": $SLURM_PROCID}}"

exec flowzoo train "$@" --strategy multiworker --resume --quiet
