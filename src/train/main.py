"""`python -m train.main experiment=baseline …` is `endcap train experiment=baseline …`."""

import sys

from endcap.cli.main import main

if __name__ == "__main__":
    main(["train", *sys.argv[1:]])
