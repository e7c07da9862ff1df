"""Sources of images, their manifest, and the checks that a data set passes before anything learns from it."""
