"""Bases and template tags of the console's pages: `pages` (pages and forms), `lists` (lists), `slots` (what other rooms add), `actions`."""
