"""Networks from records: native ones, other libraries', and the user's own module."""
