"""What must not get lost: quality, time, drift and start of a tree, frozen and compared."""
