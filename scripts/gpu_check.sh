#!/usr/bin/env bash
# All that needs a GPU, in stages, most important first. Without a stage named, all of them:
#
#   tests    the engine and the operations on the device, against the reference
#   conv     one convolution of an inflated kernel against spconv-triton and dense grids: ModelNet40, then surfaces
#   step     whole fine-tuning steps, clouds per second of training, and runs with steps recorded as graphs and without
#   speed    seconds of training to 90 % on ModelNet40, with the recipe that is fastest on a validation split
#   peers    the convolution against the other packages
#   arms     ten shots per class with every arm and three seeds, then the full ModelNet40
#
#   ROOT=data/modelnet40_ply_hdf5_2048 WEIGHTS=file:resnet50.safetensors scripts/gpu_check.sh [STAGE]... [KEY=VALUE]...
#
# ROOT     folder of ModelNet40                       (default: data/modelnet40_ply_hdf5_2048)
# WEIGHTS  2D weights of ResNet-50, caffe style       (default: unset, ResNet-50 arms take the hub's weights)
# RUNS     where run directories and figures go       (default: runs)
# BUDGET   seconds after which nothing more begins    (default: no limit)
# LIMIT    seconds that one part may take             (default: 600)
# DEVICE   cuda, or cpu to try the script itself      (default: cuda)
# WORKERS  processes that prepare batches             (default: 12)
# KEY=VALUE settings for every run, e.g. training.precision=bf16-mixed
#
# It can be called again: a part that has passed (RUNS/gpu_check/NAME.done) is left out, a run that was stopped goes on.
# A part that takes longer than LIMIT is stopped, and the next begins. How each ended stands in RUNS/gpu_check/parts.tsv
# as soon as it has, and what it printed in RUNS/gpu_check/NAME.log. The first call compiles kernels and searches for
# their tile sizes; both are kept in the user's cache folders, and figures come from runs after that.
set -uo pipefail
cd "$(dirname "$0")/.."

python=python3
if [ -x .venv/bin/python ]; then python=.venv/bin/python; fi
root=${ROOT:-data/modelnet40_ply_hdf5_2048}
runs=${RUNS:-runs}
device=${DEVICE:-cuda}
workers=${WORKERS:-12}
limit=${LIMIT:-600}
notes=$runs/gpu_check
failures=0

stages=() settings=()
for argument in "$@"; do
    case $argument in
        *=*) settings+=("$argument") ;;
        tests | conv | step | speed | peers | arms) stages+=("$argument") ;;
        *) echo "expected tests, conv, step, speed, peers, arms or KEY=VALUE, found $argument" >&2; exit 2 ;;
    esac
done
[ ${#stages[@]} -gt 0 ] || stages=(tests conv step speed peers arms)

attempt() { # NAME COMMAND...: run it, unless it has passed before or the time is up
    local place=$notes/${1// /_} begun=$SECONDS code outcome
    if [ -e "$place.done" ]; then
        echo "-- $1: has passed before ($place.log)"
        return 0
    fi
    if [ -n "${BUDGET:-}" ] && [ "$SECONDS" -ge "$BUDGET" ]; then
        echo "-- $1: not begun, $SECONDS s of $BUDGET s are spent"
        return 0
    fi
    echo "== $1 ($SECONDS s)"
    # Ctrl-C lets a run write its checkpoint; what does not listen is killed a minute later.
    timeout --foreground -s INT -k 60 "$limit" "${@:2}" 2>&1 | tee "$place.log"
    code=${PIPESTATUS[0]}
    case $code in
        0) outcome=passed; : >"$place.done" ;;
        124 | 137) outcome="stopped after $limit s" ;;
        *) outcome="failed with $code" ;;
    esac
    printf '%s\t%s\t%s s\t%s\n' "$(date -u +%FT%TZ)" "$1" $((SECONDS - begun)) "$outcome" >>"$notes/parts.tsv"
    [ "$code" = 0 ] || { failures=$((failures + 1)); echo "-- $1: $outcome"; }
}

bench() { # NAME COMMAND OPTION...: figures to the screen and to $runs/bench_NAME.json
    attempt "bench $1" "$python" -m image2point bench "${@:2}" --device "$device" --json "$runs/bench_$1.json"
}

transfer() { # CONFIG NAME KEY=VALUE...
    attempt "$2" "$python" -m image2point transfer "configs/modelnet40/$1.yaml" "name=$2" "data.root=$root" \
        "training.accelerator=$device" "${@:3}" "${settings[@]}" --runs "$runs" --resume
}

resnet() { # what ResNet-50 needs in arm $1: the same architecture in every arm, weights where they are loaded
    [ -n "${WEIGHTS:-}" ] || return 0
    echo network.stride_in=conv1
    [ "$1" = scratch ] || echo "network.weights=$WEIGHTS"
}

check_tests() {
    local parallel=() # most of the time goes into compiling kernels
    if "$python" -c "import xdist" 2>/dev/null; then parallel=(-n 8); fi
    attempt "Tritons tests, on the device" "$python" -m pytest -q "${parallel[@]}" tests/voxels/test_triton.py
    attempt "norms in Triton, on the device" "$python" -m pytest -q tests/voxels/test_norm_activate.py
    attempt "tests that need a GPU" "$python" -m pytest -q "${parallel[@]}" -m gpu
}

check_conv() {
    local against=(--compare spconv-triton,dense --dtype bfloat16 --data "$root")
    bench conv_modelnet conv "${against[@]}" --channels 1:64,1:128,2:256,4:512
    for voxels in 10000 100000 1000000; do
        bench "conv_$voxels" conv "${against[@]}" --voxels "$voxels" --channels 1:64,1:128,1:256,1:512
    done
    bench conv_tf32 conv --compare spconv-triton --data "$root" --channels 1:64,1:128,2:256,4:512
}

check_step() {
    local full
    mapfile -t full < <(resnet io_norm)
    local resnet50=(network --data "$root" --arch resnet50)
    bench network "${resnet50[@]}" --compare plain,spconv
    bench network_lite0 network --data "$root" --arch tf_efficientnet_lite0
    bench network_io "${resnet50[@]}" --policy io --compare apart,spconv # frozen norms: fused with their convolutions
    bench network_scores "${resnet50[@]}" --policy none --compare apart,spconv
    bench train train configs/modelnet40/resnet50_io_norm.yaml "data.root=$root" "${full[@]}" \
        training.precision=bf16-mixed "training.workers=$workers" "${settings[@]}"
    for graphs in none auto; do # what a step takes, with its waiting for batches
        transfer resnet50_io_norm "graphs_$graphs" "training.graphs=$graphs" training.epochs=4 training.warmup_epochs=1 \
            training.batch_size=128 training.precision=bf16-mixed "training.workers=$workers" collapse.every=0 "${full[@]}"
        awk -F, -v name="graphs_$graphs" 'NR == 1 { for (i = 1; i <= NF; i++) at[$i] = i; next }
            NR > 2 { ms = 1000 * ($at["seconds"] - seconds) / ($at["step"] - step) }
            { seconds = $at["seconds"]; step = $at["step"] }
            END { printf "%s: %.1f ms for a step of the last epoch\n", name, ms }' "$runs/graphs_$graphs/metrics.csv"
    done
}

# Recipes of the race to 90 %: name, config, then settings. The fastest on a tenth of train held out, or the best where
# none gets there, is run with three seeds. Batches of 128 keep a GPU as busy as Python can.
recipes=(
    "io_norm resnet50_io_norm training.epochs=8 training.lr=0.2 training.batch_size=128 training.warmup_epochs=1"
    "all_tied resnet50_all network.rule=tied training.epochs=6 training.lr=0.1 training.batch_size=128 training.warmup_epochs=1"
)

race() { # PREFIX NAME CONFIG KEY=VALUE...: one run, tile sizes by the first guess: a search would be on its clock
    IMAGE2POINT_TUNE=0 transfer "$3" "$1_$2" training.precision=bf16-mixed "${@:4}"
}

check_speed() {
    local full recipe words best run candidates=() finals=()
    mapfile -t full < <(resnet all)
    for recipe in "${recipes[@]}"; do # side by side: only their order counts
        read -ra words <<<"$recipe"
        race speed "${words[@]}" "${full[@]}" "training.workers=$(((workers + 1) / 2))" data.validation=0.1 \
            collapse.every=0 &
        candidates+=("$runs/speed_${words[0]}")
    done
    wait
    for run in "${candidates[@]}"; do # what failed beside the others is counted here
        [ -e "$run/summary.json" ] || failures=$((failures + 1))
    done
    best=$("$python" scripts/seconds_to_accuracy.py validation_accuracy 0.9 "${candidates[@]}") || return
    echo "$best"
    best=${best%%$'\t'*}
    for recipe in "${recipes[@]}"; do
        read -ra words <<<"$recipe"
        [ "speed_${words[0]}" = "$best" ] || continue
        for seed in 1 2 3; do
            race "speed_seed$seed" "${words[@]}" "${full[@]}" "training.workers=$workers" "seed=$seed" \
                data.validation=0 collapse.every=0
            finals+=("$runs/speed_seed${seed}_${words[0]}")
        done
    done
    "$python" scripts/seconds_to_accuracy.py test_accuracy 0.9 "${finals[@]}"
}

check_peers() {
    bench conv_peers conv --compare plain,spconv-triton,spconv,ocnn,dense --data "$root" \
        --channels 1:64,1:128,2:256,4:512
}

check_arms() {
    local full
    for seed in 1 2 3; do
        for arm in io_norm random_frozen all scratch; do
            mapfile -t full < <(resnet "$arm")
            transfer "resnet50_${arm}_10shot" "resnet50_${arm}_10shot_seed$seed" "seed=$seed" "data.shot_seed=$seed" \
                "${full[@]}"
            transfer "efficientnet_lite0_${arm}_10shot" "efficientnet_lite0_${arm}_10shot_seed$seed" "seed=$seed" \
                "data.shot_seed=$seed"
        done
    done
    for arm in io_norm all scratch random_frozen io; do
        mapfile -t full < <(resnet "$arm")
        transfer "resnet50_$arm" "resnet50_$arm" "${full[@]}"
    done
    local finished=("$runs"/*/summary.json)
    if [ -e "${finished[0]}" ]; then
        "$python" -m image2point report "${finished[@]%/summary.json}" --out "$runs/gpu_check.html"
    fi
}

if [ "$device" = cuda ]; then
    if ! "$python" -c "import torch, sys; sys.exit(not torch.cuda.is_available())" 2>/dev/null; then
        echo "gpu_check: torch finds no GPU here, so nothing was run; DEVICE=cpu tries the script itself" >&2
        exit 2
    fi
    nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader
fi
mkdir -p "$notes"
for stage in "${stages[@]}"; do "check_$stage"; done
echo "$failures failed, $SECONDS s"
[ "$failures" = 0 ]
