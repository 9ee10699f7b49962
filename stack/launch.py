"""Starts one process so that it can't outlive the supervisor: `launch.py SIGNAL UID GID COMMAND…`.

Runs before anything else of ours is imported (plain `python -S`). Changes to the service's user, asks the kernel to
send SIGNAL when the supervisor dies, even by SIGKILL (prctl PR_SET_PDEATHSIG, which a change of user would clear, so
it comes after it), and becomes the command.
"""

import ctypes
import os
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    """Become the command."""
    number, uid, gid = (int(argument) for argument in sys.argv[1:4])
    command = sys.argv[4:]
    supervisor = os.getppid()
    if uid != os.getuid():
        os.setgroups([])
        os.setgid(gid)
        os.setuid(uid)
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, number, 0, 0, 0)
    if os.getppid() != supervisor:  # it died between our start and the prctl
        sys.exit(1)
    os.execvp(command[0], command)


main()
