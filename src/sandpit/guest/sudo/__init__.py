"""`sudo` where the kernel ignores set-user-ID: asks the agent to start the real one (see sandpit.guest.agent.sudo.elevate)."""
