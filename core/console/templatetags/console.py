"""Template tags of the console: each returns one component."""

from django import template

register = template.Library()
