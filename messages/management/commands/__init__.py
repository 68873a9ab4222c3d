"""Commands of the message store."""
