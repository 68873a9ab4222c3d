"""Physical clusters and the drivers that speak to them."""
