"""What the node asks of the agent, and who may ask."""
