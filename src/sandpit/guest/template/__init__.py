"""Steps of a template build that need no program of the image: they run inside the build's sandbox, as root, on the guest's own Python."""
