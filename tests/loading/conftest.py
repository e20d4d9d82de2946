from tests.files.conftest import quick_disk  # noqa: F401
