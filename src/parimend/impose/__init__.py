"""Bringing weights into a code: nearest, gentlest for the loss, exact."""
