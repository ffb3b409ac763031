"""What developers run, and the hooks that build the site."""
