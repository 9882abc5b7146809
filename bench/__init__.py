"""What `make bench` measures: ratios, each taken in one interleaved run."""
