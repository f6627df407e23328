"""The gateway: which sandbox and port is this request for, and bytes both ways."""

from sandpit.contract.directory import Directory, Target

from .limits import Limits
from .server import Edge

__all__ = ["Directory", "Edge", "Limits", "Target"]
