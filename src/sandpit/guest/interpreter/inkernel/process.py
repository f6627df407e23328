"""The kernel's process."""

import signal

_PR_SET_PDEATHSIG = 1


def end_with_the_service() -> None:
    """Have the kernel killed when the service that started it dies: the service's next life starts new ones."""
    import ctypes

    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
