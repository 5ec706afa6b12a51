"""Where things are kept: settings, the database, files, and the one client for outgoing requests."""
