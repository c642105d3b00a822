"""What both usage commands share: `tokenwire usage` and `tokenwire-server usage`."""
