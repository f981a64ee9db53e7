"""Studies of the shipped digits model: how its images compare with real digits."""
