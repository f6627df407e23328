"""The kernel's process."""

import os
import signal

_PR_SET_PDEATHSIG = 1


def end_with_the_service() -> None:
    """Have the kernel killed when the service that started it dies: the service's next life starts new ones."""
    import ctypes

    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() == 1:  # it died while this kernel was starting, and nobody will say so again
        os.kill(os.getpid(), signal.SIGKILL)
