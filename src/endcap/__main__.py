"""`python -m endcap` is `endcap`."""

from endcap.cli.main import main

main()
