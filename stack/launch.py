"""Starts one process so that it can't outlive the supervisor: `launch.py SUPERVISOR SIGNAL UID GID COMMAND…`.

Runs before anything else of ours is imported (plain `python -S`). Changes to the service's user, asks the kernel to
send SIGNAL when the supervisor dies, even by SIGKILL (prctl PR_SET_PDEATHSIG, which a change of user would clear, so
it comes after it), and becomes the command. The signal is tied to the thread that started us: the supervisor starts
its processes from its main thread only.
"""

import ctypes
import os
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    """Become the command."""
    supervisor, number, uid, gid = (int(argument) for argument in sys.argv[1:5])
    command = sys.argv[5:]
    if uid != os.getuid():
        os.setgroups([])
        os.setgid(gid)
        os.setuid(uid)
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, number, 0, 0, 0)
    if os.getppid() != supervisor:  # it died before the prctl: no signal would ever come
        sys.exit(1)
    os.execvp(command[0], command)


main()
