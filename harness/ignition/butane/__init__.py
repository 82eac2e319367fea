"""Butane configs: YAML that people write, translated to the Ignition configs that machines read."""
