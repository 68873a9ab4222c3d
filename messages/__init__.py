"""The message store: messages of the built-in cluster and their status in every consumer group."""
