"""So many clients that poll without a pause: `python -m tests.benchmarks.load JOB` prints what they measured.

A process of its own: what it needs of the processor is the same for every address that is measured.
"""

from __future__ import annotations

import json
import random
import socket
import sys
import threading
import time
from typing import Any, BinaryIO


def answer(stream: BinaryIO) -> tuple[str, bytes]:
    """Status and content."""
    status = stream.readline().split()[1].decode()
    length = 0
    while (line := stream.readline()) != b"\r\n":
        if line.lower().startswith(b"content-length:"):
            length = int(line.split(b":")[1])
    return status, stream.read(length)


def connections(job: dict[str, Any]) -> list[socket.socket]:
    """As many to each process of the server: who got one client more would answer it later, by luck alone."""
    kept: dict[bytes, list[socket.socket]] = {}
    share = job["clients"] // job["processes"]
    while sum(map(len, kept.values())) < share * job["processes"]:
        connection = socket.create_connection(("127.0.0.1", job["port"]))
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.sendall(b"GET /process HTTP/1.1\r\nHost: localhost\r\n\r\n")
        with connection.makefile("rb") as stream:
            mine = kept.setdefault(answer(stream)[1], [])
        if len(mine) < share:
            mine.append(connection)
        else:
            connection.close()
    return [connection for mine in kept.values() for connection in mine]


def main(job: dict[str, Any]) -> None:
    latencies: list[float] = []
    statuses: dict[str, int] = {}
    sizes: set[int] = set()
    lock = threading.Lock()

    def client(number: int, connection: socket.socket) -> None:
        rng = random.Random(number)
        mine: list[float] = []
        codes: dict[str, int] = {}
        seen: set[int] = set()
        with connection, connection.makefile("rb") as stream:
            while time.monotonic() < over:
                path = job["path"] % rng.randrange(job["ids"]) if "%" in job["path"] else job["path"]
                request = (
                    f"GET {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {job['token']}\r\n\r\n"
                ).encode()
                started = time.perf_counter()
                connection.sendall(request)
                status, body = answer(stream)
                mine.append(time.perf_counter() - started)
                codes[status] = codes.get(status, 0) + 1
                seen.add(len(body))
        with lock:
            latencies.extend(mine)
            sizes.update(seen)
            for code, count in codes.items():
                statuses[code] = statuses.get(code, 0) + count

    opened = connections(job)
    over = time.monotonic() + job["seconds"]
    clients = [threading.Thread(target=client, args=each) for each in enumerate(opened)]
    for one in clients:
        one.start()
    for one in clients:
        one.join()
    latencies.sort()
    print(
        json.dumps(
            {
                "requests": len(latencies),
                "p50": latencies[len(latencies) // 2] * 1000,
                "p99": latencies[int(len(latencies) * 0.99)] * 1000,
                "statuses": statuses,
                "sizes": [min(sizes), max(sizes)],
            }
        )
    )


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
