"""Bases and template tags of the console's pages."""
