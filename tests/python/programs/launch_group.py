# SPDX-License-Identifier: BSD-3-Clause
"""torch.distributed beside a session, without a word of its ranks."""

from __future__ import annotations

import ftmem
import torch
import torch.distributed as dist

here = ftmem.init_process_group("gloo")
assert (dist.get_rank(), dist.get_world_size()) == (here.rank, here.ranks)
total = torch.tensor([here.rank + 1])
session = ftmem.Session("group")
session.add_tensor("total", total)
session.seal()
dist.all_reduce(total)
assert session.restore() is None
assert session.snapshot(1) is ftmem.Result.OK
session.fence()
assert session.wait(1) is ftmem.Result.OK
assert total.item() == sum(range(1, here.ranks + 1))
dist.destroy_process_group()
print("done", flush=True)
