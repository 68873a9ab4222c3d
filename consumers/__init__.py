"""Consumer groups, subscriptions and shadow groups."""
