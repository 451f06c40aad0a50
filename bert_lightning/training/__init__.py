"""Training, whatever the model: callbacks for checkpoints, signals, progress and speed, and guards of each step."""
