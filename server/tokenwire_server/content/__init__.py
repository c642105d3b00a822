"""What is done with the content of answers between a provider's decoder and a stream's log."""
