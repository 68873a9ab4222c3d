"""One driver per broker kind."""
