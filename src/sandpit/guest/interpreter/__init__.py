"""The code interpreter: a service inside the sandbox that runs cells in Jupyter kernels and streams what they produce."""
