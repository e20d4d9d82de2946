import pytest


@pytest.fixture(autouse=True)
def quick_disk(monkeypatch):
    """Forcing data to the disk takes long, and shows only when the power fails."""
    monkeypatch.setattr("os.fsync", lambda descriptor: None)
