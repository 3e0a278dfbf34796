"""What stands between the network and the applications: connections with time and size limits, and what every answer carries."""
