# SPDX-License-Identifier: BSD-3-Clause
"""A region of bytes for what is not a tensor: a header, then a payload of any length that fits.

    0   8  magic
    8   8  length of the payload in bytes
    16  4  CRC-32 of the payload
    20  4  0
    24     payload

The numbers are little-endian. What follows the payload is left over from longer ones.
"""

from __future__ import annotations

import ctypes
import struct
import zlib

import torch

from . import _abi
from .errors import error

MAGIC = b"ftmobj01"
LEAST = 64 * 1024
_HEADER = struct.Struct("<8sQII")


def capacity_for(bytes_needed: int) -> int:
    """Bytes of a region with room for twice a payload of so many bytes: LEAST times a power
    of 4, so that a payload that grows seldom needs another."""
    capacity = LEAST
    while capacity < 2 * bytes_needed + _HEADER.size:
        capacity *= 4
    return capacity


class ObjectRegion:
    """A region of capacity bytes. Not for several threads at once.

    Attributes:
        tensor: its memory, uint8, of shape (capacity,), on the CPU.
    """

    def __init__(self, capacity: int) -> None:
        self.tensor = torch.zeros(capacity, dtype=torch.uint8)
        self._addr = self.tensor.data_ptr()

    @property
    def capacity(self) -> int:
        return self.tensor.numel()

    @property
    def room(self) -> int:
        """Bytes of the longest payload."""
        return max(0, self.capacity - _HEADER.size)

    def store(self, payload: bytes) -> bool:
        """Writes payload into the region. False: it does not fit, and nothing is written."""
        if len(payload) > self.room:
            return False
        header = _HEADER.pack(MAGIC, len(payload), zlib.crc32(payload), 0)
        ctypes.memmove(self._addr, header, len(header))
        ctypes.memmove(self._addr + len(header), payload, len(payload))
        return True

    def load(self) -> bytes:
        """The payload. FtmemError (ECORRUPT) if the region holds none that is whole."""
        if self.capacity < _HEADER.size:
            raise _corrupt(f"its {self.capacity} bytes have no room for a header")
        header = ctypes.string_at(self._addr, _HEADER.size)
        magic, length, checksum, _ = _HEADER.unpack(header)
        if magic != MAGIC:
            raise _corrupt("it does not begin as one")
        if length > self.room:
            raise _corrupt(f"it says that it holds {length} bytes, and has room for {self.room}")
        payload = ctypes.string_at(self._addr + _HEADER.size, length)
        if zlib.crc32(payload) != checksum:
            raise _corrupt(f"the checksum of its {length} bytes is another")
        return payload


def _corrupt(what: str) -> Exception:
    return error("ObjectRegion.load", _abi.ECORRUPT, f"region of objects: {what}")
