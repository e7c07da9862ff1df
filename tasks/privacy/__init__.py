"""What a model tells about its training records: membership attacks, and training with differential privacy."""
