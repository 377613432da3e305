"""The bundled miniature: a small base model, general text, and eight generated tasks for it."""
