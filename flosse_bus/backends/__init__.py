"""Where the log lives. Each module holds one backend and is the only one to import its driver."""
