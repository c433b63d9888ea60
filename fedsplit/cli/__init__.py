"""The command line: exit 0 done, 1 the run failed, 2 the arguments or the config are wrong."""

from fedsplit.cli.main import main

__all__ = ["main"]
