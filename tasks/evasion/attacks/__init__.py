"""Attacks, one file each: images in, changed images within an L-infinity budget out."""
