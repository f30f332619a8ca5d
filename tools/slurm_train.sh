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
DEFAULT_GPUS=8 DEFAULT_CPUS=8 MORE=--signal=TERM@${GRACE:-180}
. "$(dirname "${BASH_SOURCE[0]}")/slurm_job.sh" "$@"
CONFIG=$3
shift 3
[ "${REQUEUE:-0}" = 1 ] && set -- --resume "$@"
status=0
"${JOB[@]}" "$TOOLS/train.py" "$CONFIG" --launcher slurm "$@" || status=$?
if [ "$status" -eq 143 ] && [ "${REQUEUE:-0}" = 1 ] && [ -n "${SLURM_JOB_ID:-}" ]; then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
