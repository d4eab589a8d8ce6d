"""What `make bench` runs: the promises of the README, measured."""
