"""The bundled miniature: a small base model, the text it was trained on, and eight generated tasks for it."""
