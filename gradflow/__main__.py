"""`python -m gradflow`: the lab's command line."""

import sys


def main() -> int:
    """Runs the command line; an interruption ends with code 130, while modules are imported too."""
    try:
        from gradflow.lab._cli._main import main as run

        return run()
    except KeyboardInterrupt:
        print("\nInterrupted.", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
