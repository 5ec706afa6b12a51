"""What starts work when something happened outside the graph."""
