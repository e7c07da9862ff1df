"""Answering requests with a proven champion: protocol, guards on the input, disclosure, request log."""
