"""Which files anything in this process opens, as the Linux kernel reports it (inotify)."""

from __future__ import annotations

import ctypes
import os
import struct
import sys
from pathlib import Path

IN_OPEN, IN_NONBLOCK = 0x20, 0x800
_EVENT = struct.Struct("iIII")

supported = sys.platform == "linux"


class Watch:
    """Files of a folder that are opened from now on, by whatever code."""

    def __init__(self, folder: Path) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        self._number = libc.inotify_init1(IN_NONBLOCK)
        if self._number < 0 or libc.inotify_add_watch(self._number, os.fsencode(folder), IN_OPEN) < 0:
            raise OSError(ctypes.get_errno(), "inotify")

    def opened(self) -> set[str]:
        """Names of the files that were opened; the watch ends."""
        data = b""
        try:
            while chunk := os.read(self._number, 1 << 16):
                data += chunk
        except BlockingIOError:
            pass
        os.close(self._number)
        names, at = set(), 0
        while at < len(data):
            size = _EVENT.unpack_from(data, at)[3]
            at += _EVENT.size
            names.add(os.fsdecode(data[at : at + size].rstrip(b"\0")))
            at += size
        return names - {""}
