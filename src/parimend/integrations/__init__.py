"""Training inside the code with other people's training loops; each needs its own package."""
