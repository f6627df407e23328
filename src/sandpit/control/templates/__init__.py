"""Templates, their builds and names."""
