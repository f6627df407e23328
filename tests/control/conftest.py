"""The same fixtures as the API's tests."""

from tests.api.conftest import api_client, control, migrated, node, server_url, settings

__all__ = ["api_client", "control", "migrated", "node", "server_url", "settings"]
