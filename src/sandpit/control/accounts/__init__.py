"""Teams, keys and quotas."""
