#!/usr/bin/env bash
# Train one arm on the full ModelNet40, on one GPU or several.
#
#   scripts/train_modelnet40.sh resnet50_io_norm                         # one GPU
#   GPUS=4 scripts/train_modelnet40.sh resnet50_io_norm                  # four GPUs of this machine
#   GPUS=4 LAUNCHER=torchrun scripts/train_modelnet40.sh resnet50_all    # the same through torchrun
#
# What follows the arm goes to `image2point transfer`: settings such as seed=1 name=resnet50_all_seed1, or --resume.
# ROOT is the dataset's folder (data/README.md says how it is laid out). The batch size is that of all GPUs together, so
# the number of GPUs does not change the result beyond rounding.
set -euo pipefail
cd "$(dirname "$0")/.."

if [ $# -lt 1 ]; then
    echo "usage: [GPUS=n] [LAUNCHER=torchrun] [ROOT=folder] $0 ARM [KEY=VALUE]... [--resume]" >&2
    echo "arms: $(cd configs/modelnet40 && ls | grep -v '^_' | sed 's/\.yaml$//' | xargs)" >&2
    exit 2
fi
arm=$1
shift
python=python3
if [ -x .venv/bin/python ]; then python=.venv/bin/python; fi
gpus=${GPUS:-1}
root=${ROOT:-data/modelnet40_ply_hdf5_2048}
launch=("$python")
if [ "${LAUNCHER:-fabric}" = torchrun ]; then
    launch=("$python" -m torch.distributed.run --standalone --nproc-per-node "$gpus")
fi

exec "${launch[@]}" -m image2point transfer "configs/modelnet40/$arm.yaml" \
    "data.root=$root" training.accelerator=cuda "training.devices=$gpus" training.workers=4 "$@"
