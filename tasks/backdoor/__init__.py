"""Backdoors: attacks to drill with, what is measured of them, detectors, and mitigation."""
