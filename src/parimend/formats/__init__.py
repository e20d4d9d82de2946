"""What files are made of: tensors, and the frame around them.

A format turns a file into a `Layout` and back, whatever is done with the file meanwhile. Nothing
here loads torch.
"""

from parimend.formats.base import Bytes, Entry, Layout
from parimend.formats.registry import FORMATS, layout_of, of_name, of_suffix

__all__ = ["FORMATS", "Bytes", "Entry", "Layout", "layout_of", "of_name", "of_suffix"]
