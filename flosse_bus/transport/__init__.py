"""How a stream's bytes leave: under each kind of server, and when it stops."""
