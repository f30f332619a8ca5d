#!/usr/bin/env bash
# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
# Predict as a SLURM job, whose tasks share the pictures of a folder and the rows of each raster.
#
#   GPUS=16 GPUS_PER_NODE=8 bash tools/slurm_predict.sh PARTITION JOB_NAME CONFIG CHECKPOINT INPUT [options of tools/predict.py]
#
# CPUS_PER_TASK (default 4) and SRUN_ARGS (anything else srun should get) are read too. All nodes see
# the folder of the maps. A job that has ended before it was done goes on when it is started again.
set -euo pipefail
if [ $# -lt 5 ]; then
  echo 'usage: [GPUS=8] [GPUS_PER_NODE=8] bash tools/slurm_predict.sh PARTITION JOB_NAME CONFIG CHECKPOINT INPUT [options]' >&2
  exit 2
fi
DEFAULT_GPUS=8 DEFAULT_CPUS=4 MORE=
. "$(dirname "${BASH_SOURCE[0]}")/slurm_job.sh" "$@"
shift 2
exec "${JOB[@]}" "$TOOLS/predict.py" "$@"
