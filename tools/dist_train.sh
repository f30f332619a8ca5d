#!/usr/bin/env bash
# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
# Train on several GPUs of this machine, or on several machines; without a GPU, with as many CPU
# processes.
#
#   bash tools/dist_train.sh CONFIG GPUS [options of tools/train.py]
#
# Several machines: start it on each, with
#   NNODES=2 NODE_RANK=0 MASTER_ADDR=10.0.0.1 PORT=29500 bash tools/dist_train.sh CONFIG 8
set -euo pipefail
if [ $# -lt 2 ]; then
  echo 'usage: bash tools/dist_train.sh CONFIG GPUS [options of tools/train.py]' >&2
  exit 2
fi
CONFIG=$1
GPUS=$2
shift 2
TOOLS=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
export PYTHONPATH="$TOOLS/..${PYTHONPATH:+:$PYTHONPATH}"
exec "${PYTHON:-python}" -m torch.distributed.run \
  --nnodes="${NNODES:-1}" \
  --node_rank="${NODE_RANK:-0}" \
  --master_addr="${MASTER_ADDR:-127.0.0.1}" \
  --master_port="${PORT:-29500}" \
  --nproc_per_node="$GPUS" \
  "$TOOLS/train.py" "$CONFIG" --launcher pytorch "$@"
