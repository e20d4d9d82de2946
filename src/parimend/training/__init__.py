"""Training inside the code, and training that heals."""
