from parimend.formats import layout_of


def parse(path):
    """The layout of a file."""
    with path.open("rb") as file:
        return layout_of(file, path)
