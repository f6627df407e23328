"""The in-sandbox daemon of 2024 on port 49982 (legacy-protocol 3 and 4), on the agent's own processes and files.

Only `door` is imported at the start; the rest comes with the first client of 2024, so that other sandboxes pay nothing for it.
"""
