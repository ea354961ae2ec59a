"""Real brokers, servers, publishers and streams, with one of them broken every second."""
