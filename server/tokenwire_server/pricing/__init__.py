"""Token counts, prices, and the estimate of a request before it runs."""
