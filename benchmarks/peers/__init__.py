"""The servers that the stream benchmarks compare. Each is started as a process of its own."""
