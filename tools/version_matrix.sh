#!/usr/bin/env bash
# Copyright (c) mmseg_semi_rs contributors. SPDX-License-Identifier: Apache-2.0
#
# Runs the tests under several sets of versions, each in a virtual environment of its own:
#
#   tools/version_matrix.sh                            # every cell, every test
#   tools/version_matrix.sh -n 4 oldest onedl          # two cells, four workers
#   tools/version_matrix.sh newest -- -m 'not slow'    # what follows -- goes to pytest
#
# newest  newest torch, the official OpenMMLab packages, mmcv-lite: requirements/constraints.txt
# oldest  the lowest versions that setup.py promises: requirements/oldest.txt
# onedl   as newest, with the fork onedl-mmengine, onedl-mmcv, onedl-mmsegmentation, onedl-mmpretrain
# mmcv    the official packages with the full mmcv, compiled here (half an hour) for torch 2.13
#
# A cell takes about 7 GB while it runs and, compiling apart, some minutes to install. Logs stay in
# the folder, environments only with -k. Exits with 1 if a cell did not pass.
# shellcheck disable=SC2329 # install_CELL is called by name
set -euo pipefail

usage() {
  echo "usage: tools/version_matrix.sh [-d FOLDER] [-n WORKERS] [-k] [CELL...] [-- PYTEST ARGUMENT...]
  -d FOLDER   of environments and logs (default: work_dirs/version_matrix)
  -n WORKERS  of pytest, one thread each (default: 2)
  -k          keep the environments, and use those that are there
  CELL        newest, oldest, onedl or mmcv (default: all)
PYTHON=/path/to/python chooses the interpreter (default: python3)." >&2
  exit 2
}

cd "$(dirname "${BASH_SOURCE[0]}")/.."
CELLS=(newest oldest onedl mmcv)
FOLDER=work_dirs/version_matrix WORKERS=2 KEEP=
while getopts d:n:k option; do
  case $option in
    d) FOLDER=$OPTARG ;;
    n) WORKERS=$OPTARG ;;
    k) KEEP=1 ;;
    *) usage ;;
  esac
done
shift $((OPTIND - 1))
CHOSEN=()
while (($#)) && [[ $1 != -- ]]; do
  [[ " ${CELLS[*]} " == *" $1 "* ]] || { echo "There is no cell '$1': choose of ${CELLS[*]}." >&2; usage; }
  CHOSEN+=("$1")
  shift
done
[[ ${1:-} != -- ]] || shift
((${#CHOSEN[@]})) || CHOSEN=("${CELLS[@]}")
mkdir -p "$FOLDER"
FOLDER=$(cd "$FOLDER" && pwd)

pip_install() { # CELL ARGUMENT...
  "$FOLDER/$1/bin/python" -m pip install --no-input --progress-bar off "${@:2}"
}

install_newest() {
  pip_install newest -c requirements/constraints.txt -e '.[mmlab,vlm,regions,geo,onnx,weights,test]'
}

# No extra vlm: transformers 4.57, the first with its three models, wants torch 2.2.
install_oldest() {
  pip_install oldest -c requirements/oldest.txt -e '.[mmlab,regions,geo,onnx,weights,test]'
}

# onedl-mmcv builds without operators where torch is not in the build's own environment.
install_onedl() {
  pip_install onedl -c requirements/constraints.txt -e '.[vlm,regions,geo,onnx,weights,test]' \
    onedl-mmengine onedl-mmcv onedl-mmsegmentation onedl-mmpretrain opencv-python ftfy regex
}

# Its source is C++17, which the headers of torch 2.13 take and those of 2.15 do not, and its
# setup.py imports pkg_resources, which setuptools 81 no longer has. Compiled without optimisation:
# the tests call hardly any operator. `===`, for a build with a suffix (+cpu) needs another
# torchvision.
install_mmcv() {
  local torch=(torch===2.13.0 torchvision===0.28.0) wheels=$FOLDER/mmcv-2.1.0-for-torch-2.13.0
  grep -vE '^(torch|torchvision|mmcv-lite)==' requirements/constraints.txt >"$FOLDER/mmcv.txt"
  pip_install mmcv -c "$FOLDER/mmcv.txt" "${torch[@]}" numpy packaging psutil ninja wheel 'setuptools<81'
  if ! compgen -G "$wheels/mmcv-*.whl" >/dev/null; then
    MMCV_WITH_OPS=1 MAX_JOBS=$WORKERS CFLAGS='-O0 -g0' "$FOLDER/mmcv/bin/python" -m pip wheel \
      --no-input --no-cache-dir --no-build-isolation --no-deps -v -w "$wheels" mmcv==2.1.0
  fi
  pip_install mmcv -c "$FOLDER/mmcv.txt" "${torch[@]}" "$wheels"/mmcv-*.whl \
    mmengine mmsegmentation mmpretrain opencv-python ftfy regex -e '.[vlm,regions,geo,onnx,weights,test]'
}

# opencv-python's GUI needs libGL; a bare server gets the same release without GUI.
use_headless_opencv() { # CELL
  local python=$FOLDER/$1/bin/python version
  if ! "$python" -c 'import cv2' 2>/dev/null; then
    version=$("$python" -m pip list --format freeze | sed -n 's/^opencv-python==//p')
    "$python" -m pip uninstall --no-input -q -y opencv-python
    pip_install "$1" --no-deps "opencv-python-headless==$version"
  fi
}

show_versions() { # CELL
  "$FOLDER/$1/bin/python" -V
  "$FOLDER/$1/bin/python" -m pip freeze --exclude-editable |
    sed 's/ @ file.*[-/]\(mmcv\)-\([0-9.]*\)-.*/==\2/' |
    grep -iE '^(torch|torchvision|(onedl-)?mm[a-z-]+|open_clip_torch|timm|transformers|rasterio|fiona|onnx|onnxruntime|onnxscript|numpy|scipy|pillow|opencv[a-z-]*|pytest)==' |
    paste -sd ' '
}

# passed failed skipped, from pytest's report; an error counts as a failure
count() { # CELL
  "$FOLDER/$1/bin/python" - "$FOLDER/$1.xml" <<'END'
import sys
import xml.etree.ElementTree as tree

found = tree.parse(sys.argv[1]).getroot().find('testsuite').attrib
failed, skipped = int(found['failures']) + int(found['errors']), int(found['skipped'])
print(int(found['tests']) - failed - skipped, failed, skipped)
END
}

run_cell() { # CELL PYTEST-ARGUMENT...
  local cell=$1 result=passed figures='- - -'
  shift
  rm -f "$FOLDER/$cell.xml"
  if [[ -z $KEEP || ! -e $FOLDER/$cell/.installed ]]; then
    rm -rf "${FOLDER:?}/$cell"
    "${PYTHON:-python3}" -m venv "$FOLDER/$cell"
    echo "$cell: installing, see $FOLDER/$cell.install.log"
    # A subshell of its own: bash ignores `set -e` wherever the result is asked for.
    set +e
    (
      set -e
      "install_$cell"
      use_headless_opencv "$cell"
    ) >"$FOLDER/$cell.install.log" 2>&1
    local status=$?
    set -e
    if ((status)); then
      tail -n 5 "$FOLDER/$cell.install.log"
      ROWS+=("$cell not-installed $figures")
      return
    fi
    touch "$FOLDER/$cell/.installed"
  fi
  show_versions "$cell" | tee "$FOLDER/$cell.versions.txt"
  echo "$cell: testing, see $FOLDER/$cell.tests.log"
  OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 "$FOLDER/$cell/bin/python" -m pytest -n "$WORKERS" \
    --dist loadfile -p no:cacheprovider --junitxml "$FOLDER/$cell.xml" "$@" \
    >"$FOLDER/$cell.tests.log" 2>&1 || result=failed
  [[ ! -e $FOLDER/$cell.xml ]] || figures=$(count "$cell")
  grep -E '^(FAILED|ERROR) tests' "$FOLDER/$cell.tests.log" || true
  ROWS+=("$cell $result $figures")
  [[ -n $KEEP ]] || rm -rf "${FOLDER:?}/$cell"
}

ROWS=()
for cell in "${CHOSEN[@]}"; do
  run_cell "$cell" "$@"
done
printf '\n%-8s %-14s %7s %7s %8s\n' cell result passed failed skipped
all=0
for row in "${ROWS[@]}"; do
  read -r cell result passed failed skipped <<<"$row"
  printf '%-8s %-14s %7s %7s %8s\n' "$cell" "$result" "$passed" "$failed" "$skipped"
  [[ $result == passed ]] || all=1
done
exit $all
