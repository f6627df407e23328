"""What every part may use: programs, private files, reservations, background tasks. Imports nothing of ours."""
