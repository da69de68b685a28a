"""`python -m monitor` is `guardline`."""

from monitor.cli import main

main()
