"""Architectures, freezing, training, evaluation and checkpoints of image classifiers."""
