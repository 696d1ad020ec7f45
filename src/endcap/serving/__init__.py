"""A release in, recommendations over HTTP out."""

import os

# No stage of an answer uses BLAS with more than one thread; its pool would cost start-up time and memory. It is made
# when NumPy is first imported, so this comes before.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from endcap.serving.server import run_server

__all__ = ["run_server"]
