#!/usr/bin/env bash
# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
# Evaluate a checkpoint as a SLURM job.
#
#   GPUS=4 bash tools/slurm_test.sh PARTITION JOB_NAME CONFIG CHECKPOINT [options of tools/test.py]
#
# GPUS_PER_NODE (default 8), CPUS_PER_TASK (default 8: data loading) and SRUN_ARGS (anything else srun
# should get) are read too.
set -euo pipefail
if [ $# -lt 4 ]; then
  echo 'usage: [GPUS=4] bash tools/slurm_test.sh PARTITION JOB_NAME CONFIG CHECKPOINT [options]' >&2
  exit 2
fi
PARTITION=$1
JOB_NAME=$2
CONFIG=$3
CHECKPOINT=$4
shift 4
GPUS=${GPUS:-4}
GPUS_PER_NODE=${GPUS_PER_NODE:-8}
[ "$GPUS" -lt "$GPUS_PER_NODE" ] && GPUS_PER_NODE=$GPUS
TOOLS=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
export PYTHONPATH="$TOOLS/..${PYTHONPATH:+:$PYTHONPATH}"
# shellcheck disable=SC2086 - SRUN_ARGS is a list of words
exec srun -p "$PARTITION" --job-name="$JOB_NAME" \
  --gres="gpu:$GPUS_PER_NODE" \
  --ntasks="$GPUS" \
  --ntasks-per-node="$GPUS_PER_NODE" \
  --cpus-per-task="${CPUS_PER_TASK:-8}" \
  --kill-on-bad-exit=1 \
  ${SRUN_ARGS:-} \
  "${PYTHON:-python}" -u "$TOOLS/test.py" "$CONFIG" "$CHECKPOINT" --launcher slurm "$@"
