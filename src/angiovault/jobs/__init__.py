"""Long work that the settings panel starts: each job is a process of its own, and a file that says how far it is."""
