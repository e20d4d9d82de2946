"""``python -m parimend``."""

from parimend.cli import main

main()
