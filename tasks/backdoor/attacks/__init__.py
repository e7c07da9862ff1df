"""Attacks, each from a clean data set or model to a poisoned one."""
