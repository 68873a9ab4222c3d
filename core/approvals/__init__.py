"""Applications that one person makes and another decides."""
