"""People, applications and API tokens."""
