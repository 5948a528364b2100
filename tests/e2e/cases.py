# SPDX-License-Identifier: BSD-3-Clause
"""Runs the tests of a program, functions that raise Failure or Skipped, and tells of each."""
import concurrent.futures
import os
import time

from harness import Failure, Job


class Skipped(Exception):
    """What a test needs is not to be had here."""


def add_argument(parser):
    parser.add_argument("--case", action="append", default=[], metavar="TEXT",
                        help="only the test of this name, or those whose name contains it")


def choose(args, tests, alone):
    """Tests that may have to be skipped are run by name alone."""
    if not args.case:
        return tests
    names = {test.__name__: test for test in (*tests, *alone)}
    return [names[text] for text in args.case if text in names] or \
        [test for name, test in names.items() if any(text in name for text in args.case)]


def with_job(args, nodes):
    """Calls a test with a job of its own on these nodes."""
    def call(test):
        job = Job(args, nodes)
        try:
            return test(job)
        except (Failure, Skipped):
            raise
        except Exception as failure:
            said = f"\n{job.output()[-2000:]}" if job.runs else ""
            raise Failure(f"{type(failure).__name__}: {failure}{said}") from failure
        finally:
            job.close()
    return call


def attempt(call, test):
    """ok, SKIPPED or FAILED; prints it, and why or what the test returned."""
    begin = time.monotonic()
    try:
        result, said = "ok", call(test) or ""
    except Skipped as reason:
        result, said = "SKIPPED", str(reason)
    except Failure as failure:
        result, said = "FAILED", str(failure)
    except Exception as failure:
        result, said = "FAILED", f"{type(failure).__name__}: {failure}"
    lines = [f"{result:7}  {test.__name__:52} {time.monotonic() - begin:5.1f} s"]
    print("\n    ".join(lines + said.splitlines()), flush=True)
    return result


def run(tests, call, at_a_time=1):
    """The exit status: 0, 1 for failures, 77 if a test was skipped; with FTMEM_REQUIRE_ALL set
    that is a failure, too."""
    with concurrent.futures.ThreadPoolExecutor(at_a_time) as pool:
        results = list(pool.map(lambda test: attempt(call, test), tests))
    skipped = results.count("SKIPPED")
    print(f"{results.count('ok')} of {len(tests)} good, {skipped} skipped")
    if not tests:
        print("no test of that name")
        return 2
    if skipped and os.environ.get("FTMEM_REQUIRE_ALL"):
        print("FTMEM_REQUIRE_ALL IS SET: WHAT IS SKIPPED HAS FAILED")
        return 1
    if "FAILED" in results:
        return 1
    return 77 if skipped else 0
