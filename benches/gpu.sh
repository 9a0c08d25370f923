#!/usr/bin/env bash
# An NVIDIA card's figures in one go, in under ten minutes: ViT-L/16 in fp16 at 224 px, from SVS to feature files, beside the bare
# session and the card's own matrix rate. Prints a table for benches/RESULTS.md.
#
#   benches/gpu.sh [SLIDE.svs ...] [--device cuda|cuda:0,1|tensorrt|cpu] [--model vit-s|vit-l|vit-h] [--batch 64] [--seconds 20]
#
# Without slides it copies the one in testdata often enough. --device cpu --model vit-s tries the script out on any machine.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
work=$root/target/gpu
device=cuda
for ((i = 1; i <= $#; i++)); do
  [ "${!i}" = --device ] && { next=$((i + 1)); device=${!next}; }
done
kind=onnxruntime-gpu
setup=(--dev --cuda)
if [ "$device" = cpu ]; then
  kind=onnxruntime
  setup=(--dev)
fi
"$root/scripts/setup" "${setup[@]}"
cargo build --release --manifest-path "$root/Cargo.toml"
# The bare session: the same version of ONNX Runtime, from Python; the card's libraries come from the folder of scripts/setup.
version=$(sed -n 's/^onnxruntime==\([0-9.]*\).*/\1/p' "$root/scripts/runtime.txt")
if [ "$(cat "$work/venv/runtime" 2>/dev/null)" != "$kind $version" ]; then
  rm -rf "$work/venv"
  mkdir -p "$work"
  python3 -m venv "$work/venv"
  "$work/venv/bin/python" -m pip install -q --disable-pip-version-check "$kind==$version" onnx numpy
  echo "$kind $version" >"$work/venv/runtime"
fi
lib_dir=${PARAFFIN_LIB_DIR:-${XDG_DATA_HOME:-$HOME/.local/share}/paraffin/lib}
export ORT_DISABLE_TELEMETRY=1 LD_LIBRARY_PATH=$lib_dir/cuda${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
exec "$work/venv/bin/python" "$root/benches/gpu.py" --work "$work" --dev-python "$root/.venv/bin/python" "$@"
