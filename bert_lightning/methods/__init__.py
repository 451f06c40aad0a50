"""Methods of training: adversarial training, distillation, continual learning, masked words and pseudo-labels."""
