#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""The layering, enforced: which file of src/ may include which.

A module is a .c/.h pair. The table lists modules from the lowest layer up, and for
each the modules it may include; it can name only modules above its own line, so that
nothing includes upward. A file that is in no line, a line without a file, and an
include that its line does not allow are errors.
"""
import pathlib
import re
import sys

TABLE = """
ftmem                 :
# leaves
clock                 :
sized                 :
limiter               :
thread                :
name                  : ftmem
error                 : ftmem
log                   : ftmem
ec/codec_ref          :
ec/kernel             :
ec/kernel_ref         : ec/kernel ec/codec_ref
ec/kernel_isal        : ec/kernel ec/codec_ref
ec/codec              : ec/kernel ec/codec_ref error
checksum              : ec/kernel
stream                :
device                :
opts                  : ftmem error log name sized
memory                : error thread
topo                  : error
tune                  :
net                   : clock error
net_mpi               : clock error net
# who is where, and what lies where
rail                  :
tags                  : rail
map                   : ftmem error name rail
box                   : ftmem
bytes                 : error
tensor                : box bytes error checksum
overlap               : box error
region                : ftmem device error sized checksum box tensor
layout                : error checksum overlap region
slot                  : ftmem clock error checksum rail map
arena                 : error checksum memory name slot
# pure protocol
commit                : error slot
recover               : map slot commit
# whose share is what, and where what is asked for lies
route                 : error bytes checksum
match                 : error checksum tensor overlap
plan                  : error tensor overlap
# devices
copy                  : device box error log rail layout
copy_bands            : error copy
copy_read             : checksum stream copy
copy_write            : checksum stream copy
copy_host             : clock error thread copy copy_read copy_write
copy_stage            :
copy_device           : clock error thread checksum device copy copy_bands copy_stage copy_host
cuda/device_none      : device
cuda/driver           : error
cuda/device_cuda      : device error cuda/driver
# what trainer and snapshot-management process say to each other
smp/wire              : ftmem error slot
smp/path              : ftmem error name
smp/spawn             : ftmem clock error
smp/client            : clock error log commit smp/wire smp/path smp/spawn
# the snapshot-management process
smp/process           : error
smp/reap              : error thread
smp/store             : error slot smp/wire smp/process smp/reap
smp/requests          : error log slot smp/wire smp/store
smp/scrub_walk        : checksum slot smp/wire
smp/scrub             : clock error log smp/store smp/scrub_walk
smp/server            : clock error log smp/requests smp/scrub
smp/main              : clock error opts smp/path smp/spawn smp/scrub smp/server
# the command
smp/cli               : error opts smp/client
smp/cli_site          : error smp/cli
smp/cli_show          : error smp/cli
smp/cli_layout        : checksum error layout smp/cli
smp/cli_verify        : error smp/cli
smp/cli_drop          : clock error smp/cli
# all ranks
courier               : clock error net route tags
share                 : clock error layout match net courier
compare               : clock error checksum log copy net share courier
transfer              : clock error checksum net tags copy
# within a group
stripe                : clock error log limiter checksum ec/codec net tags slot copy
rebuild               : clock error log checksum ec/codec net tags slot
# the life of a version
epoch                 : clock error limiter tune net slot copy stripe compare
snapshot              : clock error commit epoch
keeper                : clock error slot smp/client
progress              : clock error thread keeper snapshot
# the life of a job
machine               : checksum
session               : clock error checksum machine tags opts topo tune map keeper epoch progress
room                  : clock error memory session
seal                  : clock error checksum recover share session room
gather                : error recover session
rescue                : error rebuild room gather
stored                : checksum error layout gather
refill                : clock error layout rescue
move                  : clock error layout plan courier transfer rescue
restore               : clock error thread refill move
repair                : clock error session rescue
world                 : ftmem clock error checksum machine opts net
api                   : clock error session repair world
"""

# Foreign headers that belong to one module each.
FOREIGN = {
    r"mpi\.h": "net_mpi",
    r"hwloc(/.*|)\.h": "topo",
    r"(isa-l|isal)(/.*|)\.h": "ec/kernel_isal",
    r"(cuda|nccl|nvml|cublas).*": "cuda/.*",
    r"cmocka\.h": "(none)",
}
# Pure functions: no clock, thread or I/O, and the step functions no allocation either.
IMPURE = {"pthread.h", "time.h", "unistd.h", "threads.h", "fcntl.h", "semaphore.h"}
PURE = {"tune": IMPURE,
        "rail": IMPURE, "map": IMPURE, "box": IMPURE, "tensor": IMPURE, "overlap": IMPURE,
        "route": IMPURE, "match": IMPURE, "plan": IMPURE, "copy_bands": IMPURE,
        "copy_stage": IMPURE | {"stdlib.h"},
        "commit": IMPURE | {"stdlib.h"}, "recover": IMPURE | {"stdlib.h"}}

# Files of a module that is more than one pair; NAME_impl.h is what they share.
PARTS = {**{f"cuda/device_cuda_{part}": "cuda/device_cuda"
            for part in ("impl", "scope", "where", "stream", "copy")},
         "layout_impl": "layout", "layout_parse": "layout",
         "stripe_impl": "stripe", "stripe_move": "stripe", "stripe_seal": "stripe",
         "match_impl": "match", "match_cells": "match", "match_deal": "match",
         "match_read": "match",
         "plan_impl": "plan", "plan_read": "plan", "plan_unwanted": "plan",
         "route_impl": "route", "route_back": "route",
         "session_meet": "session",
         "rebuild_impl": "rebuild", "rebuild_unit": "rebuild",
         "rescue_impl": "rescue", "rescue_rails": "rescue",
         "restore_impl": "restore", "restore_tell": "restore",
         "move_impl": "move", "move_plan": "move",
         "transfer_impl": "transfer", "transfer_stream": "transfer",
         **{f"copy_device_{part}": "copy_device"
            for part in ("impl", "ready", "pin", "issue", "check", "fill")},
         "smp/cli_layout_impl": "smp/cli_layout", "smp/cli_layout_view": "smp/cli_layout",
         "smp/cli_layout_text": "smp/cli_layout", "smp/cli_layout_json": "smp/cli_layout"}

INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^">]+)[">]', re.M)


def read_table():
    allowed, problems = {}, []
    for line in TABLE.splitlines():
        if not line or line.startswith("#"):
            continue
        name, _, knows = line.partition(":")
        name = name.strip()
        for other in knows.split():
            if other not in allowed:
                problems.append(f"table: {name} names {other}, which is not above it")
        if name in allowed:
            problems.append(f"table: {name} has two lines")
        allowed[name] = set(knows.split())
    return allowed, problems


def check(root):
    allowed, problems = read_table()
    source = root / "src"
    seen = {"ftmem"}
    for path in sorted(source.rglob("*.[ch]")):
        module = path.relative_to(source).with_suffix("").as_posix()
        module = PARTS.get(module, module)
        where = path.relative_to(root)
        if module not in allowed:
            problems.append(f"{where}: module {module} has no line in the table")
            continue
        seen.add(module)
        for quote, name in INCLUDE.findall(path.read_text()):
            for pattern, owner in FOREIGN.items():
                if re.fullmatch(pattern, name) and not re.fullmatch(owner, module):
                    problems.append(f"{where}: includes {name}; only {owner} may")
            if quote == "<":
                if name in PURE.get(module, ()) or name.startswith("sys/") and module in PURE:
                    problems.append(f"{where}: includes {name}, but is pure")
                continue
            other = PARTS.get(name[:-2], name[:-2])
            if other != module and other not in allowed[module]:
                problems.append(f"{where}: includes {name}; {module} may include only: "
                                + (" ".join(sorted(allowed[module])) or "nothing"))
    for module in allowed.keys() - seen:
        problems.append(f"table: {module} has no file")
    return problems


def main():
    root = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else ".").resolve()
    problems = check(root)
    for line in problems:
        print(line)
    print(f"include graph: {len(problems)} problem(s)")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
