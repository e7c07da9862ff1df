"""Evasion: inputs changed a little so that a model answers wrongly (study, section 3.2), measured against budget."""
