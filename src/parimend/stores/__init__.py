"""Where tensors live: in a model, spread over processes, in a file, in memory; one contract."""
