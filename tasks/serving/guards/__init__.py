"""Guards: what looks at an image and at what the model made of it, and may refuse the answer. One file a guard."""
