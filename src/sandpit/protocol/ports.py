"""Ports of a sandbox that belong to Sandpit. Clients have these numbers built in."""

from __future__ import annotations

AGENT = 49983
"""The agent: processes, files, watchers (current-protocol 4)."""
LEGACY_AGENT = 49982
"""The daemon of 2024 (legacy-protocol 3)."""
RELAY = 49981
"""The agent's relay to servers that listen on the sandbox's loopback only. Only the edge connects to it."""
INTERPRETER = 49999
"""The code interpreter (code-interpreter 2)."""
JUPYTER = 8888
"""Jupyter's protocol, as the code interpreter of 2024 spoke it (legacy-protocol 5)."""
