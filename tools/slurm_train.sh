#!/usr/bin/env bash
# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
# Train as a SLURM job.
#
#   GPUS=16 GPUS_PER_NODE=8 bash tools/slurm_train.sh PARTITION JOB_NAME CONFIG [options of tools/train.py]
#
# CPUS_PER_TASK (default 8: data loading) and SRUN_ARGS (anything else srun should get) are read too.
# SIGTERM comes GRACE seconds (default 180) before the time limit, so that the training ends its step,
# writes a checkpoint and leaves with 143. Inside a batch job (sbatch) REQUEUE=1 then puts the job
# back into the queue; every start goes on from the newest checkpoint (--resume).
set -euo pipefail
if [ $# -lt 3 ]; then
  echo 'usage: [GPUS=8] [GPUS_PER_NODE=8] bash tools/slurm_train.sh PARTITION JOB_NAME CONFIG [options]' >&2
  exit 2
fi
PARTITION=$1
JOB_NAME=$2
CONFIG=$3
shift 3
GPUS=${GPUS:-8}
GPUS_PER_NODE=${GPUS_PER_NODE:-8}
[ "$GPUS" -lt "$GPUS_PER_NODE" ] && GPUS_PER_NODE=$GPUS
TOOLS=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
export PYTHONPATH="$TOOLS/..${PYTHONPATH:+:$PYTHONPATH}"
[ "${REQUEUE:-0}" = 1 ] && set -- --resume "$@"
status=0
# shellcheck disable=SC2086 - SRUN_ARGS is a list of words
srun -p "$PARTITION" --job-name="$JOB_NAME" \
  --gres="gpu:$GPUS_PER_NODE" \
  --ntasks="$GPUS" \
  --ntasks-per-node="$GPUS_PER_NODE" \
  --cpus-per-task="${CPUS_PER_TASK:-8}" \
  --kill-on-bad-exit=1 \
  --signal="TERM@${GRACE:-180}" \
  ${SRUN_ARGS:-} \
  "${PYTHON:-python}" -u "$TOOLS/train.py" "$CONFIG" --launcher slurm "$@" || status=$?
if [ "$status" -eq 143 ] && [ "${REQUEUE:-0}" = 1 ] && [ -n "${SLURM_JOB_ID:-}" ]; then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
