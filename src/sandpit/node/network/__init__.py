"""Network slots, packet rules and names."""
