"""What is kept: instance files, the index of them, and the one door to both. No sockets in here."""
