"""HTTP below the routes: connections, limits and headers."""
