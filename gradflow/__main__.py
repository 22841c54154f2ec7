"""`python -m gradflow`: the lab's command line."""

import sys

from gradflow.lab._cli._main import main

if __name__ == "__main__":
    sys.exit(main())
