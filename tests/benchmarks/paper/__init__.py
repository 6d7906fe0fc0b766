"""The tables and figures of the MetaCluster paper (arXiv 2510.19105), run again."""
