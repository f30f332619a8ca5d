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
DEFAULT_GPUS=4 DEFAULT_CPUS=8 MORE=
. "$(dirname "${BASH_SOURCE[0]}")/slurm_job.sh" "$@"
CONFIG=$3
CHECKPOINT=$4
shift 4
exec "${JOB[@]}" "$TOOLS/test.py" "$CONFIG" "$CHECKPOINT" --launcher slurm "$@"
