"""Running networks: layers, the sources of their coefficients, and how to build them."""
