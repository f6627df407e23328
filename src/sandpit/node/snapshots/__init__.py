"""What sandboxes start from: template images, and states of sandboxes."""
