"""Who did what, when and why: append-only, protected in the database."""
