"""What is Synology's: paths, the supervisor, the shared folder, MariaDB's set-up, notifications, set-up commands."""
