"""Before anything is protected: which budget, and where it is spent."""
