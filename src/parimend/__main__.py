"""``parimend``, and ``python -m parimend``."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line; what reads its arguments takes a while to load, too."""
    try:
        from parimend.cli import main as run
    except KeyboardInterrupt:
        print("parimend: interrupted", file=sys.stderr)
        sys.exit(130)  # as `parimend.cli.contract` has it
    run()


if __name__ == "__main__":
    main()
