"""From edge vectors to a codebook and labels: by coefficients, and by what layers put out."""
