"""What the host and the programs in a sandbox both speak. Standard library only: it is part of the guest closure."""
