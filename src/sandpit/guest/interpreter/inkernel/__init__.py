"""What runs inside the image's IPython kernels; there this package is called `sandpit_kernel`.

Python 3.8 or later. Nothing here imports pandas, matplotlib or PIL before the user does.
"""
