"""What each command does, without parsing and without the console: `multilora_cli` has these."""
