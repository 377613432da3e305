"""The method: equation, layer, configuration, model, registration with PEFT."""
