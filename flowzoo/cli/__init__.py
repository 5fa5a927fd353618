"""The command line. `flowzoo --help` describes it; `main` is what the `flowzoo` command runs."""

from flowzoo.cli.app import main

__all__ = ["main"]
