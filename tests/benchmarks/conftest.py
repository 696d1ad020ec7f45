"""Makes the checkout's `benchmarks` package importable: it isn't installed."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))
