# SPDX-License-Identifier: BSD-3-Clause
"""Times, and what is told of several, for ftmem_gpu_bench.py."""
import statistics
import time


def series(values, scale=1.0):
    samples = [scale * value for value in values]
    if not samples:
        return None
    rising = sorted(samples)
    return {"median": statistics.median(rising), "min": rising[0], "max": rising[-1],
            "p99": rising[min(len(rising) - 1, int(0.99 * len(rising)))],
            "count": len(rising), "samples": samples}


def timed(function, *arguments):
    """Seconds, and what it returned."""
    begin = time.perf_counter()
    out = function(*arguments)
    return time.perf_counter() - begin, out
