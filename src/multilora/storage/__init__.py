"""Files that appear whole: folders, safetensors, and what rounding costs."""
