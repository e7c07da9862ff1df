"""Promotion: what decides it, the signed evidence that proves it, and the dossier that explains it."""
