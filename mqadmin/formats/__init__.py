"""How dates are written: alike in both languages, without a.m. and p.m."""
