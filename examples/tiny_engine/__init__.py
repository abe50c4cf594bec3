"""A mixture-of-experts engine that is small enough to read, with a `Balancer` beneath."""
