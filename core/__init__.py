"""What every room builds on."""
