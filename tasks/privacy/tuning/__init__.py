"""Which clipping, noise, batch, rate and epochs: private training tuned on one table (study, chapter 6)."""

from tasks.privacy.tuning.suggestion import Suggestion, suggest

__all__ = ["Suggestion", "suggest"]
