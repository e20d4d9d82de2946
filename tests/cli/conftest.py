import pytest

from parimend.cli import main
from tests.files.conftest import quick_disk  # noqa: F401


@pytest.fixture
def run(capsys):
    """Run a command: (exit status, standard output, standard error)."""

    def run(*arguments):
        with pytest.raises(SystemExit) as end:
            main([str(argument) for argument in arguments])
        return end.value.code or 0, *capsys.readouterr()

    return run
