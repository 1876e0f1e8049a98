"""A stand-in for the `DataProto` of ROLL and verl: the three attributes that the drop-ins read."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass
class DataProto:
    batch: dict[str, Any] = field(default_factory=dict)
    non_tensor_batch: dict[str, NDArray[Any]] = field(default_factory=dict)
    meta_info: dict[str, Any] = field(default_factory=dict)


def objects(*values: Any) -> NDArray[Any]:
    array = np.empty(len(values), object)
    array[:] = values
    return array
