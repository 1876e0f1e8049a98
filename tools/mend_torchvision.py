"""Makes torchvision importable where its library cannot be loaded: `python tools/mend_torchvision.py`, after pip.

A package index may hold torchvision for CUDA only. Beside a PyTorch for the CPU its library does not load, and its
import fails at two operators that are declared nowhere. What processors of images call is Python over torch's own
operators and needs no library, so it is enough to declare the two. They stay without an implementation.
Does nothing where torchvision has its library, or is mended.
"""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

_MARK = "# Declared by Rollstream's set-up"
_DECLARED = f"""

{_MARK}: the library is that of another PyTorch.
if not _has_ops():
    _DECLARED = torch.library.Library("torchvision", "DEF")
    _DECLARED.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _DECLARED.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
"""
_USED = "from torchvision.transforms.v2 import functional"


def main() -> int:
    """Exit code 0 if torchvision can be imported afterwards."""
    try:
        module = Path(str(distribution("torchvision").locate_file("torchvision/extension.py")))
        text = module.read_text()
    except (PackageNotFoundError, OSError) as error:
        sys.stderr.write(f"no torchvision here: {error}\n")
        return 1
    if not _works() and _MARK not in text:
        module.write_text(text + _DECLARED)
    return 0 if _works() else 1


def _works() -> bool:
    """Whether another process can import what processors of images need: what this one has tried would stay."""
    return subprocess.run([sys.executable, "-W", "ignore", "-c", _USED], check=False).returncode == 0


if __name__ == "__main__":
    sys.exit(main())
