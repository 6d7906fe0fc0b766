"""What torchrun tells the processes that it starts; without it there is one, and this says so."""

from __future__ import annotations

import os
from datetime import timedelta

_PATIENCE = timedelta(seconds=10)
# Of this process so far; a script may go on after the failure of a command.
_failures = 0


def processes() -> int:
    """Number of processes that share the work."""
    return int(os.environ["WORLD_SIZE"]) if "TORCHELASTIC_RUN_ID" in os.environ else 1


def number() -> int:
    """Number of this process among all, from 0."""
    return int(os.environ["RANK"]) if processes() > 1 else 0


def local_number() -> int:
    """Number of this process among those of its machine, from 0."""
    return int(os.environ["LOCAL_RANK"]) if processes() > 1 else 0


def is_first() -> bool:
    """Whether this is the process that writes and prints."""
    return number() == 0


def is_first_to_fail() -> bool:
    """Whether no other process has failed before; the first one tells why.

    To be asked once for each failure. The store that torchrun's agent keeps outlives the
    processes. Where it cannot be asked, every process tells: better twice than never.
    """
    global _failures
    _failures += 1
    if processes() == 1:
        return True
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    try:
        store = TCPStore(
            os.environ["MASTER_ADDR"],
            int(os.environ["MASTER_PORT"]),
            is_master=False,
            timeout=_PATIENCE,
            wait_for_workers=False,
        )
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        return bool(store.add(f"kancompress/failures/{attempt}/{_failures}", 1) == 1)
    except (KeyError, RuntimeError, ValueError):
        return True
