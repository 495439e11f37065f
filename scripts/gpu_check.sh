#!/usr/bin/env bash
# All that needs a GPU, most important first: the tests on the device, ten shots per class with every arm and three
# seeds, then the full ModelNet40. Finished runs are kept and interrupted ones resumed, so it can be called again.
#
#   ROOT=data/modelnet40_ply_hdf5_2048 WEIGHTS=file:resnet50.safetensors scripts/gpu_check.sh [KEY=VALUE]...
#
# ROOT     folder of ModelNet40                       (default: data/modelnet40_ply_hdf5_2048)
# WEIGHTS  2D weights of ResNet-50, caffe style       (default: unset, ResNet-50 arms take the hub's weights)
# RUNS     where the run directories go               (default: runs)
# BUDGET   seconds after which no further run begins  (default: no limit)
# DEVICE   cuda, or cpu to try the script itself      (default: cuda)
# KEY=VALUE settings for every run, e.g. training.precision=bf16-mixed
set -uo pipefail
cd "$(dirname "$0")/.."

python=python3
if [ -x .venv/bin/python ]; then python=.venv/bin/python; fi
root=${ROOT:-data/modelnet40_ply_hdf5_2048}
runs=${RUNS:-runs}
device=${DEVICE:-cuda}
failures=0

run() { # CONFIG NAME KEY=VALUE...
    local config=$1 name=$2
    shift 2
    if [ -n "${BUDGET:-}" ] && [ "$SECONDS" -ge "$BUDGET" ]; then
        echo "-- $name: not begun, $SECONDS s of $BUDGET s are spent"
        return
    fi
    echo "== $name ($SECONDS s)"
    "$python" -m image2point.cli transfer "configs/modelnet40/$config.yaml" "name=$name" "data.root=$root" \
        "training.accelerator=$device" "$@" --runs "$runs" --resume || failures=$((failures + 1))
}

resnet() { # what ResNet-50 needs in arm $1: the same architecture in every arm, weights where they are loaded
    [ -n "${WEIGHTS:-}" ] || return 0
    echo network.stride_in=conv1
    [ "$1" = scratch ] || echo "network.weights=$WEIGHTS"
}

if [ "$device" = cuda ]; then
    nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader
    "$python" -m pytest -q -m gpu || failures=$((failures + 1))
fi
for seed in 1 2 3; do
    for arm in io_norm random_frozen all scratch; do
        shots=("seed=$seed" "data.shot_seed=$seed")
        mapfile -t settings < <(resnet "$arm")
        run "resnet50_${arm}_10shot" "resnet50_${arm}_10shot_seed$seed" "${shots[@]}" "${settings[@]}" "$@"
        run "efficientnet_lite0_${arm}_10shot" "efficientnet_lite0_${arm}_10shot_seed$seed" "${shots[@]}" "$@"
    done
done
for arm in io_norm all scratch random_frozen io; do
    mapfile -t settings < <(resnet "$arm")
    run "resnet50_$arm" "resnet50_$arm" "${settings[@]}" "$@"
done
finished=("$runs"/*/summary.json)
if [ -e "${finished[0]}" ]; then
    "$python" -m image2point.cli report "${finished[@]%/summary.json}" --out "$runs/gpu_check.html"
fi
echo "$failures failed, $SECONDS s"
[ "$failures" = 0 ]
