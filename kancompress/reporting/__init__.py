"""What a file holds and weighs, as data and as pictures."""
