"""Trains a task in several processes of this machine: `python -m gradflow.lab.distributed --help`."""

import sys

from gradflow.lab._distributed._parent import main as main

__all__ = ["main"]

if __name__ == "__main__":
    sys.exit(main())
