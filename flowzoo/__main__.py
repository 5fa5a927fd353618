"""Makes `python -m flowzoo` the same as `flowzoo`."""

import sys

from flowzoo.cli.app import main

if __name__ == "__main__":
    sys.exit(main())
