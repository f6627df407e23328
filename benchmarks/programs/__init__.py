"""`./bench programs`: real programs, installed from their registries in a fresh sandbox each, in both runtimes (docs/programs.md)."""
