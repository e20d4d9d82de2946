import pytest

from parimend.cli import main


@pytest.fixture(autouse=True)
def quick_disk(monkeypatch):
    """Forcing data to the disk takes long, and shows only when the power fails."""
    monkeypatch.setattr("os.fsync", lambda descriptor: None)


@pytest.fixture
def run(capsys):
    """Run a command: (exit status, standard output, standard error)."""

    def run(*arguments):
        with pytest.raises(SystemExit) as end:
            main([str(argument) for argument in arguments])
        return end.value.code or 0, *capsys.readouterr()

    return run
