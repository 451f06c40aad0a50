"""Methods that change what a training step computes: adversarial training, distillation, and custom methods."""
