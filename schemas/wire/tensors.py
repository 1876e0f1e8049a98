"""A tensor in a message is `{dtype, shape, data}`: raw little-endian bytes whose length follows from the other two."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

Dtype = Literal["int32", "int64", "float32", "bit"]
_LITTLE: dict[str, np.dtype[Any]] = {"int32": np.dtype("<i4"), "int64": np.dtype("<i8"), "float32": np.dtype("<f4")}
_CARRIED: dict[np.dtype[Any], Dtype] = {
    np.dtype("i4"): "int32", np.dtype("i8"): "int64", np.dtype("f4"): "float32",
}  # fmt: skip
_MOST = 2**31


class Tensor(BaseModel):
    """An array of fixed dtype. `bit` packs eight booleans a byte, little-endian, over the flattened array.

    `numpy()` gives it; `numpy.asarray`, `torch.as_tensor`, `tolist()`, `len`, an index and a loop over rows work too.
    """

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore")

    dtype: Dtype
    shape: tuple[int, ...] = Field(max_length=3)
    data: bytes

    @model_validator(mode="after")
    def _length_follows_from_shape(self) -> Self:
        if min(self.shape, default=0) < 0 or max(self.shape, default=0) > _MOST:
            raise ValueError(f"shape {self.shape} has a negative or huge side")
        expected = _num_bytes(self.dtype, self.shape)
        if len(self.data) != expected:
            raise ValueError(f"{self.dtype} of shape {self.shape} needs {expected} bytes, got {len(self.data)}")
        return self

    @classmethod
    def of(cls, array: NDArray[Any]) -> Tensor:
        """Pack `array`; booleans become `bit`. Raises `TypeError` for a dtype that messages do not carry."""
        if array.dtype == np.bool_:
            packed = np.packbits(array.reshape(-1), bitorder="little")
            return cls.model_construct(dtype="bit", shape=array.shape, data=packed.tobytes())
        dtype = _CARRIED.get(array.dtype.newbyteorder("="))
        if dtype is None:
            raise TypeError(f"the wire carries {', '.join(_LITTLE)} and bool, not {array.dtype}")
        little = array.astype(_LITTLE[dtype], copy=False)
        return cls.model_construct(dtype=dtype, shape=array.shape, data=little.tobytes())

    def tolist(self) -> list[Any]:
        """Nested lists of Python numbers."""
        return self.numpy().tolist()  # type: ignore[no-any-return] # numpy cannot know

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.array(self.numpy(), dtype=dtype, copy=copy)

    def __dlpack__(self, **options: Any) -> Any:
        """For `torch.as_tensor` and others. It gives a copy, because their users may write to it."""
        return self.numpy().copy().__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        """Always the CPU."""
        return self.numpy().__dlpack_device__()

    def __len__(self) -> int:
        return len(self.numpy())

    def __getitem__(self, index: Any) -> Any:
        return self.numpy()[index]

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override] # pydantic's own would give the names of its fields
        return iter(self.numpy())

    def __bool__(self) -> bool:
        raise TypeError("a tensor is neither true nor false: write `is not None`, or .numpy().any()")

    def __eq__(self, other: object) -> bool:
        """Whether two tensors hold the same. Raises `TypeError` for a list or an array, which would never be equal."""
        if other is None or isinstance(other, Tensor):
            return other is not None and (self.dtype, self.shape, self.data) == (other.dtype, other.shape, other.data)
        raise TypeError(f"a tensor is not compared with a {type(other).__name__}: use its .numpy() or .tolist()")

    def __repr__(self) -> str:
        return f"<Tensor {self.dtype} {self.shape}>"

    __str__ = __repr__

    def __hash__(self) -> int:
        return hash((self.dtype, self.shape, self.data))

    def numpy(self) -> NDArray[Any]:
        """A read-only view of the bytes (a bool array for `bit`), in `shape`."""
        if self.dtype == "bit":
            flat = np.frombuffer(self.data, np.uint8)
            bits = np.unpackbits(flat, count=math.prod(self.shape), bitorder="little")
            return bits.astype(np.bool_).reshape(self.shape)
        return np.frombuffer(self.data, _LITTLE[self.dtype]).reshape(self.shape)


def _num_bytes(dtype: Dtype, shape: tuple[int, ...]) -> int:
    count = math.prod(shape)
    return (count + 7) // 8 if dtype == "bit" else count * _LITTLE[dtype].itemsize


def expect(name: str, tensor: Tensor, dtype: Dtype, ndim: int) -> None:
    """Raises `ValueError`, with `name`, if `tensor` has another dtype or number of dimensions."""
    if tensor.dtype != dtype or len(tensor.shape) != ndim:
        raise ValueError(f"{name}: expected {dtype} with {ndim} dimensions, got {tensor.dtype} {tensor.shape}")


def expect_shape(name: str, tensor: Tensor | None, dtype: Dtype, shape: tuple[int, ...]) -> None:
    """Raises `ValueError`, with `name`, if `tensor` is not None and has another dtype or shape."""
    if tensor is not None and (tensor.dtype, tensor.shape) != (dtype, shape):
        raise ValueError(f"{name}: expected {dtype} {shape}, got {tensor.dtype} {tensor.shape}")


def expect_within(name: str, tensor: Tensor, most: int = 2**31 - 1) -> None:
    """Raises `ValueError`, with `name`, for a number below 0 or above `most`."""
    values = tensor.numpy()
    if values.size and not (values.min() >= 0 and values.max() <= most):
        raise ValueError(f"{name}: from {values.min()} to {values.max()}, which must lie within 0 and {most}")
