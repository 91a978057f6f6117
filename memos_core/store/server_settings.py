"""What a private PostgreSQL is told on its command line: sized to the machine, no TCP."""

from __future__ import annotations

import os
from pathlib import Path

_MB = 1 << 20
_GB = 1 << 30
_SMALL = 4 * _GB
_SHARE = 16  # of the memory, for each of the two large settings: 512 MB from 8 GiB on


def server_settings(sockets: str, port: int) -> list[str]:
    """Return the arguments for ``postgres``; they win over the files in its data folder."""
    memory = _memory()
    large = min(512 * _MB, memory // _SHARE)
    settings = {
        "listen_addresses": "",
        "port": str(port),
        "unix_socket_directories": sockets,
        "unix_socket_permissions": "0700",
        "max_connections": "200",
        "shared_buffers": f"{(large if memory >= _SMALL else 128 * _MB) // _MB}MB",
        "maintenance_work_mem": f"{max(large, 64 * _MB) // _MB}MB",
        "max_wal_size": "2GB",
        "wal_compression": "on",
        "random_page_cost": "1.1",
        "jit": "off",
        "logging_collector": "off",
        "log_destination": "stderr",
        "lc_messages": "C",  # we read the log
    }
    if _little_shared_memory():
        settings["dynamic_shared_memory_type"] = "sysv"
    return [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]


def _memory() -> int:
    """Return the bytes of memory we may use: the machine's, or less in a container."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for name in ("memory.max", "memory/memory.limit_in_bytes"):  # cgroup v2, v1
        try:
            limits.append(int((Path("/sys/fs/cgroup") / name).read_text("ascii")))
        except (OSError, ValueError):  # no such limit, or the word "max"
            continue
    return min(limits)


def _little_shared_memory() -> bool:
    """Whether /dev/shm is a container's 64 MB: a parallel index build needs more."""
    try:
        status = os.statvfs("/dev/shm")  # noqa: S108 not a temporary file
    except OSError:
        return False  # macOS has none, and needs none
    return status.f_frsize * status.f_blocks < _GB
