"""What happens to an answer between the provider's decoder and the stream's log. No I/O, no clock."""
