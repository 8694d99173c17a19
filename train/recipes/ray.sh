#!/bin/bash
# Collect, train and measure on a Ray cluster, from a machine of it: RAY_ADDRESS=HOST:6379 bash train/recipes/ray.sh
# Every machine needs the same clone at the same path, and Python's packages: see README.md.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/settings.sh"
NUM_GPUS=${NUM_GPUS:-8}

# Training and benchmark: a worker per GPU, as torchrun would start them.
start() {
    python -m train.on_ray --num-workers "$NUM_GPUS" -- "$@"
}

# Collection has an engine of its own, in which judging does not wait for sampling and a dead worker is replaced.
collect_pairs() {
    # shellcheck disable=SC2086
    python -m golden collect "$RUNS/pairs" --model "$MODEL" --num-pairs "$NUM_PAIRS" \
        --judges all --judge-weights "$JUDGE_WEIGHTS" ${PROMPTS:+--prompts "$PROMPTS"} \
        --engine ray --num-workers "$NUM_GPUS" --num-judge-workers "$NUM_GPUS" $EXTRA_COLLECT
}

collect_train_measure
