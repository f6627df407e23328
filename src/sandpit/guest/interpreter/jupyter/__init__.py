"""The Jupyter Server of 2024 on port 8888, as far as clients speak to it, in front of the interpreter's own contexts (legacy-protocol 5).

A kernel is a context under the name that its clients know. Only `door` is imported at the start.
"""
