"""Watching what is deployed: request statistics, input drift, findings."""
