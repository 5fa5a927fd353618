"""Makes `python -m tests.fuzz` run the runner, which a worker process can import by its name."""

import sys

from tests.fuzz.runner import main

if __name__ == "__main__":
    sys.exit(main())
