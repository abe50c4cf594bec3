#!/bin/sh
# Install a wheel into an empty environment of each Python given, away from the checkout and from what other runs left, and try it:
#   sh tests/installed.sh WHEEL PYTHON...
set -eu
wheel=$(realpath "$1")
shift
for python in "$@"; do
  folder=$(mktemp -d)
  trap 'rm -rf "$folder"' EXIT
  "$python" -m venv "$folder/env"
  "$folder/env/bin/python" -m pip install --quiet --disable-pip-version-check "${wheel}[plot]"
  (
    cd "$folder"
    unset PYTHONPATH
    export HOME="$folder" XDG_CACHE_HOME="$folder/cache" PATH="$folder/env/bin:$PATH"
    python --version
    evenload --version
    evenload demo --plot demo.png
    python - <<'END'
from pathlib import Path

import numpy as np

import evenload
from evenload.synth import synthetic_trace

assert Path(evenload.__file__).is_relative_to(Path.cwd()), evenload.__file__
trace = synthetic_trace(3, 2, 16)
np.savez("trace.npz", load=trace)
assert evenload.solve(trace, evenload.Cluster(4, num_slots=20)).balancedness.min() > 0.5
END
    evenload plan trace.npz --gpus 4 --slots 20 --next -o placement.json
    evenload evaluate trace.npz placement.json
    evenload replay trace.npz --gpus 4 --slots 20 --cost tokens_per_second=1e6 --cost expert_bytes=1e6 --hardware h100-ib
    evenload inspect placement.json
  )
  rm -rf "$folder"
done
