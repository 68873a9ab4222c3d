"""Topics: application, approval, allocation, publication."""
