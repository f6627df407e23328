"""The implementation: asyncio. `_sync` is generated from it by scripts/make_sync."""
