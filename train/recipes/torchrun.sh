#!/bin/bash
# Collect, train and measure on one machine with several GPUs: bash train/recipes/torchrun.sh
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/settings.sh"
NUM_GPUS=${NUM_GPUS:-8}

start() {
    torchrun --standalone --nproc-per-node "$NUM_GPUS" -m golden "$@"
}

collect_train_measure
