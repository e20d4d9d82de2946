"""What layers compute, said once: for checks on outputs, for moments of inputs, for faults."""
