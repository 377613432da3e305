"""The built-in data sets, one file each: options, source, prompts, splits and scoring. `tasks.registry` finds them."""
