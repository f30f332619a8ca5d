# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
# What slurm_train.sh, slurm_test.sh and slurm_predict.sh share. They source it with their own words,
# PARTITION and JOB_NAME first; it makes TOOLS, and JOB, the words that start Python as a job.
GPUS=${GPUS:-$DEFAULT_GPUS}
GPUS_PER_NODE=${GPUS_PER_NODE:-8}
[ "$GPUS" -lt "$GPUS_PER_NODE" ] && GPUS_PER_NODE=$GPUS
TOOLS=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
export PYTHONPATH="$TOOLS/..${PYTHONPATH:+:$PYTHONPATH}"
# shellcheck disable=SC2206 - both are lists of words
JOB=(
  srun -p "$1" --job-name="$2"
  --gres="gpu:$GPUS_PER_NODE"
  --ntasks="$GPUS"
  --ntasks-per-node="$GPUS_PER_NODE"
  --cpus-per-task="${CPUS_PER_TASK:-$DEFAULT_CPUS}"
  --kill-on-bad-exit=1
  $MORE ${SRUN_ARGS:-}
  "${PYTHON:-python}" -u
)
