# SPDX-License-Identifier: BSD-3-Clause
"""The binding of this source tree, or where the bench lies alone the one that is installed."""
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "python"))

import ftmem  # noqa: E402
from ftmem import Result  # noqa: E402
from ftmem._library import load  # noqa: E402

__all__ = ["Result", "ftmem", "load"]
