"""Training of any model: callbacks for checkpoints, signals, progress and speed, and checks of each step."""
