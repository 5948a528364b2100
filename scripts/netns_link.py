#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""A link between two network namespaces on which packets take their time.

For scripts/netns.sh where the kernel cannot delay packets itself (netem). Makes an interface
in each namespace and, once both are there, goes on in the background: what leaves the one
enters the other a while later. Ends when one of them is gone, or on SIGTERM.
"""
import argparse
import collections
import errno
import fcntl
import os
import select
import struct
import subprocess
import sys
import time

TUNSETIFF = 0x400454ca
IFF_TAP = 0x2
IFF_NO_PI = 0x1000
# An Ethernet header, a VLAN tag and the largest packet.
FRAME = 65535 + 18
# Further ones are lost, as on any link.
QUEUE = 10000


def interface(namespace, name, mtu):
    """The file of an interface: made here, where names are free, then moved."""
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    here = f"link{os.getpid()}"
    fcntl.ioctl(fd, TUNSETIFF, struct.pack("16sH22x", here.encode(), IFF_TAP | IFF_NO_PI))
    subprocess.run(["ip", "link", "set", here, "mtu", str(mtu)], check=True)
    subprocess.run(["ip", "link", "set", here, "netns", namespace, "name", name], check=True)
    return fd


def take(fd, queue, due):
    """All that left an interface until now."""
    while True:
        try:
            frame = os.read(fd, FRAME)
        except BlockingIOError:
            return
        if len(queue) < QUEUE:
            queue.append((due, frame))


def put(fd, queue, now):
    while queue and queue[0][0] <= now:
        try:
            os.write(fd, queue.popleft()[1])
        except OSError as error:
            # An interface that is down takes none.
            if error.errno not in (errno.EIO, errno.EINVAL, errno.ENOBUFS, errno.EAGAIN):
                raise


def carry(ends, seconds):
    poll = select.poll()
    ways = [(ends[0], ends[1], collections.deque()), (ends[1], ends[0], collections.deque())]
    for fd in ends:
        poll.register(fd, select.POLLIN)
    while True:
        due = [queue[0][0] for _, _, queue in ways if queue]
        poll.poll(max(0, (min(due) - time.monotonic()) * 1e3) if due else None)
        now = time.monotonic()
        for source, target, queue in ways:
            take(source, queue, now + seconds)
            put(target, queue, now)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("seconds", type=float, help="that packets take, each way")
    parser.add_argument("mtu", type=int)
    parser.add_argument("end", nargs=4, help="namespace and interface, twice")
    args = parser.parse_args()
    ends = [interface(*args.end[i:i + 2], args.mtu) for i in (0, 2)]
    if os.fork():
        return 0
    try:
        carry(ends, args.seconds)
    except OSError:
        return 1


if __name__ == "__main__":
    sys.exit(main())
