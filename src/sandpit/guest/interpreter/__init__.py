"""The code interpreter: a service in the sandbox that runs cells in Jupyter kernels and streams what they produce."""
