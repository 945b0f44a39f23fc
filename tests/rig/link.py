"""A link between two namespaces, for tests: two tun devices, and what happens to a packet between them.

link.py NAME NAME: makes the two devices and says "ready". Each line of its input is a JSON object that changes what happens
from then on: delay and jitter in milliseconds; loss, duplicate and reorder as shares of 1; seed. A packet that is reordered
overtakes those that wait. Ends with its input.
"""
import fcntl
import heapq
import json
import os
import random
import select
import struct
import sys
import time

TUNSETIFF = 0x400454CA
IFF_TUN, IFF_NO_PI = 0x0001, 0x1000
MTU = 1500
# Beyond these a packet is lost, as in a router's queue.
WAITING = 10_000


def device(name):
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(fd, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TUN | IFF_NO_PI))
    return fd


def packets(fd):
    try:
        while True:
            yield os.read(fd, 65536)
    except BlockingIOError:
        return


def main():
    fds = [device(name) for name in sys.argv[1:3]]
    weather = {"delay": 0, "jitter": 0, "loss": 0, "duplicate": 0, "reorder": 0}
    draw = random.Random(0)
    waiting, number = [], 0
    # By direction: when the last packet in order arrives.
    last = [0.0, 0.0]
    print("ready", flush=True)
    while True:
        timeout = max(0.0, waiting[0][0] - time.monotonic()) if waiting else None
        readable, _, _ = select.select([0, *fds], [], [], timeout)
        if 0 in readable:
            line = sys.stdin.readline()
            if not line:
                return
            change = json.loads(line)
            draw = random.Random(change.pop("seed", 0))
            weather.update(change)
            print("changed", flush=True)
        now = time.monotonic()
        for side in (0, 1):
            for packet in packets(fds[side]) if fds[side] in readable else ():
                if len(waiting) >= WAITING or draw.random() < weather["loss"]:
                    continue
                for _ in range(2 if draw.random() < weather["duplicate"] else 1):
                    at = now + (weather["delay"] + draw.uniform(-1, 1) * weather["jitter"]) / 1000
                    if draw.random() >= weather["reorder"]:
                        at = last[side] = max(at, last[side])
                    else:
                        at = now
                    number += 1
                    heapq.heappush(waiting, (at, number, 1 - side, packet))
        now = time.monotonic()
        while waiting and waiting[0][0] <= now:
            _, _, side, packet = heapq.heappop(waiting)
            try:
                os.write(fds[side], packet)
            except OSError:
                pass  # The other end is down: a packet more that is lost.


main()
