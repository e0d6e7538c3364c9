"""Run a command to which one folder is read-only: ``python readonly.py FOLDER COMMAND...``.

Needed where this process could write to the folder whatever its permissions say, which is to say as root: the command then
gets a mount table of its own, in which the folder is mounted read-only. For everybody else permissions do.
"""

import ctypes
import os
import sys

CLONE_NEWNS = 0x00020000
MS_RDONLY, MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = 0x1, 0x20, 0x1000, 0x4000, 0x40000


def mount_read_only(folder: str) -> None:
    """Mount ``folder`` read-only for this process and its children.

    Raises:
        OSError: not permitted (needs CAP_SYS_ADMIN), or no Linux.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    path = os.fsencode(os.path.realpath(folder))
    for result in (
        libc.unshare(CLONE_NEWNS),
        libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None),
        libc.mount(path, path, None, MS_BIND, None),
        libc.mount(None, path, None, MS_BIND | MS_REMOUNT | MS_RDONLY, None),
    ):
        if result:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), folder)


if __name__ == "__main__":
    mount_read_only(sys.argv[1])
    os.execvp(sys.argv[2], sys.argv[2:])
