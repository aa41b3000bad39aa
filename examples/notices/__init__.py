"""Short messages, honest and fraudulent, from templates written by hand; `__main__` makes them."""
