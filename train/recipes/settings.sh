# Read by the recipes: the same settings for all, each from the environment.
RUNS=${RUNS:-runs}
MODEL=${MODEL:-sdxl}
NUM_PAIRS=${NUM_PAIRS:-100000}
NUM_EPOCHS=${NUM_EPOCHS:-30}
SUITE=${SUITE:-main}
PROMPTS=${PROMPTS:-}            # files, a prompt per line: to collect pairs for,
TEST_PROMPTS=${TEST_PROMPTS:-}  # and to measure on; the embedded models have their own
JUDGE_WEIGHTS=${JUDGE_WEIGHTS:-$([[ $MODEL == shapes* ]] && echo embedded || echo published)}
EXTRA_COLLECT=${EXTRA_COLLECT:-}  # more options of each command, such as "--bf16 --shard-size 32"
EXTRA_TRAIN=${EXTRA_TRAIN:-}
EXTRA_BENCH=${EXTRA_BENCH:-}

if [[ $MODEL != shapes* && ( -z $PROMPTS || -z $TEST_PROMPTS ) ]]; then
    echo "MODEL=$MODEL has no prompts of its own: set PROMPTS and TEST_PROMPTS to files with a prompt per line." >&2
    exit 2
fi

# The three commands. `start` is defined by each recipe: it starts one of them on all GPUs, and returns when it is done.
collect_train_measure() {
    collect_pairs
    # shellcheck disable=SC2086  # several options in one variable
    start train "$RUNS/pairs" --out "$RUNS/npnet" --num-epochs "$NUM_EPOCHS" $EXTRA_TRAIN
    # shellcheck disable=SC2086
    start bench --suite "$SUITE" --model "$MODEL" --npnet "$RUNS/npnet/npnet.safetensors" \
        --judges all --judge-weights "$JUDGE_WEIGHTS" ${TEST_PROMPTS:+--prompts "$TEST_PROMPTS"} \
        --out "$RUNS/$SUITE" $EXTRA_BENCH
}

collect_pairs() {
    # shellcheck disable=SC2086
    start collect "$RUNS/pairs" --model "$MODEL" --num-pairs "$NUM_PAIRS" \
        --judges all --judge-weights "$JUDGE_WEIGHTS" ${PROMPTS:+--prompts "$PROMPTS"} $EXTRA_COLLECT
}
