"""What to do about a file, folder or process that the system refuses. Pure."""

from __future__ import annotations

import errno

_NEXT_STEPS = {
    errno.ENOSPC: "make room on its disk",
    errno.EDQUOT: "make room: the user's quota is used up",
    errno.EROFS: "its file system can only be read: `journalctl -k` tells why, and `mount -o remount,rw` ends it",
    errno.EIO: "its disk doesn't work: `journalctl -k` tells more",
    errno.EMFILE: "the router has too many files open: raise `ulimit -n`, or LimitNOFILE= in its unit",
    errno.ENFILE: "the machine has too many files open: raise `sysctl fs.file-max`",
    errno.EAGAIN: "the router has too many processes: raise `ulimit -u`, or TasksMax= in its unit",
    errno.ENOMEM: "the machine has too little memory left: end something",
}


def next_step(error: OSError, otherwise: str) -> str:
    """For the end of a message. `otherwise`: where the reason isn't one that a full or limited machine gives."""
    return _NEXT_STEPS.get(error.errno or 0, otherwise)
