#!/usr/bin/env bash
# Installs the CPU build of PyTorch with the given Python: from the configured package index, else from PyTorch's own.
# The default index of a user's machine holds CUDA builds only: 2 GB more, and of no use without a GPU.
set -euo pipefail

python=${1:?usage: tools/cpu_torch.sh PYTHON [PIP OPTION...]}
shift
# TORCH=2.11.0+cpu chooses another version: vLLM's CPU build wants the one that it was compiled for.
requirement=torch==${TORCH:-2.13.0+cpu}

"$python" -m pip install "$@" "$requirement" ||
    "$python" -m pip install "$@" --extra-index-url https://download.pytorch.org/whl/cpu "$requirement"
